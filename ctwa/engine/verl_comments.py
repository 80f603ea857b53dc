"""What verl's YAML files say of their keys: the comments above them, and no file says it a second time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from ctwa.engine.checks.keys import verl_files

_LINE = re.compile(r"(?P<indent> *)(?:# ?(?P<comment>.*)|(?P<key>[\w.-]+):(?: .*)?)?$")


@cache
def verl_comments() -> dict[str, str]:
    """By dotted key, the comment on it."""
    return dict(_of_file(verl_files() / "ppo_trainer.yaml", ""))


def _of_file(file: Path, prefix: str) -> Iterator[tuple[str, str]]:
    """The comments of a file and, before them, those of the files that it begins with."""
    text = file.read_text()
    for entry in yaml.safe_load(text).get("defaults", []):
        group, name = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
        folder, _, package = group.partition("@")
        place = verl_files() / folder.removeprefix("../") if folder else file.parent
        part = place / f"{name.replace('${model_engine}', 'dp')}.yaml"
        if part.is_file():
            yield from _of_file(part, f"{prefix}{package}." if package else prefix)
    yield from comments_of(text, prefix)


def comments_of(text: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The comments that stand right above the keys of a YAML file.

    Args:
        text: of the file, nested by indentation.
        prefix: of its keys.
    """
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or not line.strip():
            above = []
        elif found["comment"] is not None:
            above.append(found["comment"].strip())
        elif found["key"] is not None:
            depth = len(found["indent"])
            path = [(at, name) for at, name in path if at < depth] + [(depth, found["key"])]
            if told := " ".join(each for each in above if not each.startswith("oc.select:")):
                yield prefix + ".".join(name for _, name in path), told
            above = []
