"""Is a run that is to be resumed the one that was begun, and what is not as it was?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ctwa.engine.checkpoint import find_resumption
from ctwa.errors import CtwaError
from ctwa.run.documents import read_document
from ctwa.run.dotted import dotted
from ctwa.run.folder import RunFolder, RunInfo

_OF_THE_START = {"ctwa.resume", "ctwa.run", "ray_kwargs.ray_init"}
"""What may be as it likes: which start it is, where the folder is now, and what the environment gives."""
_NAMED_AFTER_THE_FOLDER = {"router_config_path", "agent_loop_config_path", "experiment_name", "default_local_dir"}
_ABSENT = object()
"""In the place of a key that another version of ctwa has not."""
_MOST = 8  # changes that are told


BOUND = (
    "actor_rollout_ref.actor.optim.optimizer",
    "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.model.target_modules",
)
"""The settings of which a checkpoint's tensors are, whatever is trained on."""


def refuse_another(run: RunFolder, info: RunInfo) -> None:
    """See that a checkpoint of the folder is of this method and these objectives.

    Raises:
        CtwaError: it is of others.
    """
    if find_resumption(run.checkpoints).folder is None or not run.info.is_file():
        return
    before = run.read_info()
    now, then = ({"method": each.method, "objectives": sorted(each.objectives)} for each in (info, before))
    for what in now:
        if now[what] != then[what]:
            raise CtwaError(
                f"{run.path} was begun with the {what} {_text(then[what])}, and is to go on with {_text(now[what])}: "
                "resume with what it was begun with, or give another folder"
            )


def refuse_unlike(run: RunFolder, config: Mapping[str, Any], keys: Iterable[str]) -> None:
    """See that settings without which a checkpoint of the folder cannot be read are as they were.

    Raises:
        CtwaError: one is not.
    """
    if find_resumption(run.checkpoints).folder is None:
        return
    then, now = _begun_with(run), dotted(dict(config))
    for key in keys:
        before, after = _under(then, key), _under(now, key)
        if before is not _ABSENT and before != after:
            raise CtwaError(
                f"{run.path} was begun with {key}={_text(before)}, and its checkpoint cannot be read with "
                f"{'nothing' if after is _ABSENT else _text(after)}: write {key}="
                f"{'null' if before is None else _text(before)}"
            )


def _under(settings: Mapping[str, Any], key: str) -> Any:
    """A setting; of a section the names in it, in alphabetical order."""
    names = {each[len(key) + 1 :].partition(".")[0] for each in settings if each.startswith(f"{key}.")}
    return sorted(names) if names else settings.get(key, _ABSENT)


def changes(run: RunFolder, config: Mapping[str, Any]) -> list[str]:
    """The settings that are not as in the folder's config.yaml, as ``key: before -> now``.

    A key that only one of the two has is told where it is an objective's, in any section (``ctwa.method.bounds.NAME``);
    elsewhere it is of another version of ctwa.
    """
    if not (before := _begun_with(run)):
        return []
    now = dotted(dict(config), without=_is_of_the_start)
    every = {**before, **now}
    names = {key.split(".")[2] for key in every if key.startswith("ctwa.objectives.")}
    keys = [key for key in every if (key in before and key in now) or not names.isdisjoint(key.split("."))]
    return [
        f"{key}: {_text(before.get(key))} -> {_text(now.get(key))}" for key in keys if before.get(key) != now.get(key)
    ]


def told(changed: list[str]) -> str:
    """The changes, in one sentence."""
    more = f"; and {len(changed) - _MOST} more" if changed[_MOST:] else ""
    return f"other settings than before: {'; '.join(changed[:_MOST])}{more}"


def _begun_with(run: RunFolder) -> dict[str, Any]:
    """The settings in the folder's config.yaml by their keys; none where it is not there."""
    if not run.config.is_file():
        return {}
    return dotted(read_document(run.config, "restore it, or take it away"), without=_is_of_the_start)


def _is_of_the_start(key: str, path: str) -> bool:
    return path in _OF_THE_START or key in _NAMED_AFTER_THE_FOLDER


def _text(value: object) -> str:
    if value is None or value == []:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
