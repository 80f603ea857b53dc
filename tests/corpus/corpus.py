"""Cases of the corpus: what they are as data, how their files are made, and what a command answers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ctwa import cli

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        id: which one it is.
        files: what is written, changed or removed before, by path: a text; null to remove it; or as `_written` reads.
        command: the words behind ``ctwa``.
        says: a part of the answer.
        code: the exit status.
    """

    id: str
    files: dict[str, Any]
    command: list[str]
    says: str
    code: int


def cases(name: str) -> Iterator[Case]:
    """Those of a file: groups, in which ``ctwa``, ``code`` and ``files`` hold where a case has none of its own.

    The text under a case's ``file`` is that of the group's ``file``; its ``more`` are words behind the command's.
    """
    for group in yaml.load((FOLDER / f"{name}.yaml").read_text(), yaml.CSafeLoader):
        for number, each in enumerate(group["cases"]):
            files = {**group.get("files", {}), **each.get("files", {})}
            if "file" in each:
                files[group["file"]] = each["file"]
            command = shlex.split(f"{each.get('ctwa', group.get('ctwa', ''))} {each.get('more', '')}")
            code = each.get("code", group.get("code", 2))
            yield Case(f"{group['about']}-{number}".replace(" ", "-"), files, command, each["says"], code)


def make(place: Path, case: Case, world: Path) -> None:
    """Write a case's files into a folder, over what is good there of all that the case names."""
    named = " ".join([*case.command, *case.files, json.dumps(case.files)])
    for source in world.iterdir():
        if source.name in named:
            copy = shutil.copytree if source.is_dir() else os.link
            copy(
                source, place / source.name, **({"symlinks": True, "copy_function": os.link} if source.is_dir() else {})
            )
    for name, content in case.files.items():
        for path in sorted(place.glob(name)) if "*" in name else [place / name]:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = None if content is None else _written(path, content)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)  # it shares its bytes with the good one
            if isinstance(written, Path):
                path.symlink_to(written)
            elif written is not None:
                path.write_bytes(written)


def _written(path: Path, content: Any) -> bytes | Path:
    """The bytes of a file, or where a link leads."""
    match content:
        case str():
            return content.encode()
        case {"hex": text}:
            return bytes.fromhex(str(text))
        case {"rows": rows} if path.suffix == ".parquet":
            buffer = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows), buffer)
            return buffer.getvalue().to_pybytes()
        case {"rows": rows}:
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        case {"repeat": text, "times": number}:
            return (text * number).encode()
        case {"link": target}:
            return Path(target)
        case {"append": text}:
            return path.read_bytes() + bytes.fromhex(str(text))
        case {"cut": number}:
            return path.read_bytes()[:number]
        case {"flip": number}:
            data = bytearray(path.read_bytes())
            data[number] ^= 1
            return bytes(data)
        case {"line": number, "is": text}:
            lines = path.read_text().split("\n")
            return "\n".join([*lines[:number], text, *lines[number + 1 :]]).encode()
        case {"set": changes}:
            value = yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
            for key, new in changes.items():
                *sections, last = key.split(".")
                node = value
                for section in sections:
                    node = node[section]
                node[last] = new
            return json.dumps(value).encode()
    raise ValueError(f"{path.name}: nothing is known of {content}")


@dataclass(frozen=True)
class Answer:
    """How a command ended: exit status, standard output and error, and the traceback where there was one."""

    code: int
    out: str
    err: str
    traceback: str = ""


def answer(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Answer:
    """What ``ctwa WORDS`` answers, in this process."""
    monkeypatch.setattr(sys, "argv", ["ctwa", *words])
    capfd.readouterr()
    code, failed = 0, ""
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - which is the fault that is looked for
        failed = traceback.format_exc()
    out, err = capfd.readouterr()
    return Answer(code, out, err, failed)
