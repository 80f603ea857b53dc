"""`ctwa init`: a small project of one's own, made of the files in ``template``."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from ctwa.errors import CtwaError
from ctwa.run.disk import check_place
from ctwa.shipped import shipped_folder

SHIPPED = ("recipes", "reward_fns")
"""The folders that come with ctwa beside the package."""

NEXT = """next:
  cd {folder}
  pytest                                                                # the test of the rewards
  ctwa check-reward rewards.py:correct --data data/train.jsonl          # a reward on rows of the data
  ./train.sh ctwa --dry-run                                             # the plan
  ./train.sh ctwa                                                       # train, on this machine's CPU"""


def make_project(folder: Path, *, recipes: bool = False) -> list[Path]:
    """Make the project's files.

    Args:
        folder: where; it may exist, and may hold other files.
        recipes: put the recipes in its ``recipes``, and the reward functions to copy in its ``reward_fns``.

    Returns:
        The files, relative to the folder.

    Raises:
        CtwaError: the folder cannot be written, or a file is there already; nothing is written then.
    """
    if folder.is_file() or (folder.is_symlink() and not folder.exists()):
        raise CtwaError(f"{folder} is a file, or a link to nothing: give a folder for the project")
    check_place(folder)
    with as_file(files("ctwa.starter") / "template") as template:
        sources = {path.relative_to(template): path for path in template.rglob("*") if _is_of_project(path)}
        for name in SHIPPED if recipes else ():
            root = shipped_folder()
            sources |= {path.relative_to(root): path for path in (root / name).rglob("*") if _is_of_project(path)}
        made = sorted(sources)
        places = [*made, *{path.parent for path in made} - {Path()}]
        if taken := [str(path) for path in places if _is_taken(folder / path, is_folder=path not in made)]:
            raise CtwaError(
                f"{folder} holds {', '.join(taken)} already, and nothing is written over: give another folder, or move "
                "them away"
            )
        for path, source in sources.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if target.suffix == ".sh":
                target.chmod(0o755)  # whatever became of it on the way through an archive
    return made


def _is_taken(place: Path, *, is_folder: bool) -> bool:
    return place.is_symlink() or (place.exists() and not (is_folder and place.is_dir()))


def _is_of_project(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts
