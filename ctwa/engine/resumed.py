"""Is a run that is to be resumed the one that was begun, and what is not as it was?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctwa.engine.checkpoint import find_resumption
from ctwa.errors import CtwaError
from ctwa.run.documents import read_document
from ctwa.run.dotted import dotted
from ctwa.run.folder import RunFolder, RunInfo

_OF_THE_START = {"ctwa.resume", "ctwa.run", "ray_kwargs.ray_init"}
"""What may be as it likes: which start it is, where the folder is now, and what the environment gives."""
_NAMED_AFTER_THE_FOLDER = {"router_config_path", "agent_loop_config_path", "experiment_name", "default_local_dir"}
_KEPT_WITH_THE_PLACE = {"data.dataloader_num_workers"}
"""What torchdata's loader needs to be as it was, to find its place in the data again."""
_MOST = 8  # changes that are told


def refuse_another(run: RunFolder, info: RunInfo, config: Mapping[str, Any]) -> None:
    """See that a checkpoint of the folder is of this method and these objectives, and that its place can be read.

    Raises:
        CtwaError: it is of others, or its place in the data was kept by another number of processes.
    """
    if find_resumption(run.checkpoints).folder is None or not run.info.is_file():
        return
    then, now = _told_before(run), dotted(dict(config))
    for key in sorted(_KEPT_WITH_THE_PLACE & then.keys()):
        if (was := then[key]) != now.get(key):
            raise CtwaError(
                f"{run.path} has kept its place in the data with {key}={was}, and cannot go on from it with "
                f"{_text(now.get(key))}: write {key}={was}"
            )
    trained, begun = (
        {"method": each.method, "objectives": sorted(each.objectives)} for each in (info, run.read_info())
    )
    for what in trained:
        if trained[what] != begun[what]:
            raise CtwaError(
                f"{run.path} was begun with the {what} {_text(begun[what])}, and is to go on with "
                f"{_text(trained[what])}: resume with what it was begun with, or give another folder"
            )


def changes(run: RunFolder, config: Mapping[str, Any]) -> list[str]:
    """The settings that are not as in the folder's config.yaml, as ``key: before -> now``.

    A key that only one of the two has is told where it is an objective's; elsewhere it is of another version of ctwa.
    """
    if not (before := _told_before(run)):
        return []
    now = dotted(dict(config), without=_is_of_the_start)
    keys = [key for key in {**before, **now} if (key in before and key in now) or key.startswith("ctwa.objectives.")]
    return [
        f"{key}: {_text(before.get(key))} -> {_text(now.get(key))}" for key in keys if before.get(key) != now.get(key)
    ]


def _told_before(run: RunFolder) -> dict[str, Any]:
    """The settings in the folder's config.yaml by their keys; none where it is not there."""
    if not run.config.is_file():
        return {}
    return dotted(read_document(run.config, "restore it, or take it away"), without=_is_of_the_start)


def told(changed: list[str]) -> str:
    """The changes, in one sentence."""
    more = f"; and {len(changed) - _MOST} more" if changed[_MOST:] else ""
    return f"other settings than before: {'; '.join(changed[:_MOST])}{more}"


def _is_of_the_start(key: str, path: str) -> bool:
    return path in _OF_THE_START or key in _NAMED_AFTER_THE_FOLDER


def _text(value: object) -> str:
    if value is None or value == []:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
