"""Is a run that is to be resumed the one that was begun, and what is not as it was?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ctwa.engine.checkpoint import find_resumption
from ctwa.engine.choices import OURS
from ctwa.errors import CtwaError
from ctwa.run.documents import read_document
from ctwa.run.dotted import dotted
from ctwa.run.folder import RunFolder, RunInfo

_OF_THE_START = {"ctwa.resume", "ctwa.run", "ray_kwargs.ray_init"}
"""What may be as it likes: which start it is, where the folder is now, and what the environment gives."""
_NAMED_AFTER_THE_FOLDER = {"router_config_path", "agent_loop_config_path", "experiment_name", "default_local_dir"}
_ABSENT = object()
"""In the place of a key that only one of two configurations has."""
_MOST = 8  # changes that are told
_RESTORE = "restore it, or take it away"

Path = tuple[str, ...]

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
    then = dotted(read_document(run.config, _RESTORE)) if run.config.is_file() else {}
    now = dotted(dict(config))
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


def changes(run: RunFolder, config: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """The settings that are not as in the folder's config.yaml, as ``key: before -> now``.

    A key that only one of the two has may be of another version of ctwa: it is told unless it has this version's
    default, or this version has no such key.

    Args:
        run: the folder.
        config: as it is now.
        known: every key that there may be, nested, with its default; an empty section takes any.
    """
    if not run.config.is_file():
        return []
    before = read_document(run.config, _RESTORE)
    return [
        f"{'.'.join(key)}: {_text(then)} -> {_text(now)}"
        for key, then, now in _differences(before, dict(config), ())
        if not (_ABSENT in (then, now) and _is_of_another_version(key, now, known))
    ]


def _differences(then: Any, now: Any, at: Path) -> Iterator[tuple[Path, Any, Any]]:
    """The places where two configurations differ; a section beside something else is told as a whole."""
    sides = [{} if _is_nothing(side) else side for side in (then, now)]
    if all(isinstance(side, dict) for side in sides) and sides != [{}, {}]:
        before, after = sides
        for key in {**before, **after}:
            path = (*at, str(key))
            if not _is_of_the_start(path[-1], ".".join(path)):
                yield from _differences(before.get(key, _ABSENT), after.get(key, _ABSENT), path)
    elif then != now and not (_is_nothing(then) and _is_nothing(now)):
        yield at, then, now


def _is_of_another_version(key: Path, now: object, known: Mapping[str, Any]) -> bool:
    """Whether a key that only one of two configurations has is none that the user has written, or taken away."""
    if key[0] == "ctwa" and key[1] in OURS:
        return len(key) == 3  # an option, of which a method has all; below it are names
    node: Any = known
    for name in key:
        if not isinstance(node, Mapping) or not node:
            return False  # the user's own names
        if name not in node:
            return True
        node = node[name]
    return bool(now == node)


def told(changed: list[str]) -> str:
    """The changes, in one sentence."""
    more = f"; and {len(changed) - _MOST} more" if changed[_MOST:] else ""
    return f"other settings than before: {'; '.join(changed[:_MOST])}{more}"


def _is_of_the_start(key: str, path: str) -> bool:
    return path in _OF_THE_START or key in _NAMED_AFTER_THE_FOLDER


def _is_nothing(value: object) -> bool:
    return value is _ABSENT or value in (None, [], {})


def _text(value: object) -> str:
    if _is_nothing(value):
        return "nothing"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_text(each)}' for name, each in value.items())}}}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
