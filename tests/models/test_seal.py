"""A seal tells what was finished from what was not, and what was changed since."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ctwa.models.seal import SEAL_FILE, added_files, damaged_files, is_complete, read_seal, seal

FILES = {"state.json": b'{"step": 3}', "actor/model.pt": b"weights" * 3, "data.pt": b"position"}


def save(folder: Path, *, sealed: bool = True) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if sealed:
        seal(folder)
    return folder


def test_a_sealed_folder_is_complete_and_whole(tmp_path: Path) -> None:
    save(tmp_path)

    assert is_complete(tmp_path)
    assert damaged_files(tmp_path) == ()


def test_a_folder_without_a_seal_is_not(tmp_path: Path) -> None:
    assert not is_complete(save(tmp_path, sealed=False))
    assert not is_complete(tmp_path / "nowhere")
    assert not is_complete(tmp_path / "data.pt")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"files": {"data.',
        b"[]",
        b"{}",
        b"\xff",
        b'{"files": []}',
        b'{"files": {}}',
        b'{"files": {"data.pt": "8"}}',
        b'{"files": {"data.pt": {}}}',
        b'{"files": {"data.pt": 8}}',  # its size alone
        b'{"files": {"data.pt": {"size": "eight", "sha256": ""}}}',
    ],
)
def test_what_is_no_seal_is_none(content: bytes, tmp_path: Path) -> None:
    (save(tmp_path) / SEAL_FILE).write_bytes(content)

    assert not is_complete(tmp_path)
    assert damaged_files(tmp_path) == (SEAL_FILE,)


def test_a_name_that_no_file_can_have_is_that_of_a_file_that_is_gone(tmp_path: Path) -> None:
    name = "n" * 300
    (save(tmp_path) / SEAL_FILE).write_text(json.dumps({"files": {name: {"size": 1, "sha256": ""}}}))

    assert damaged_files(tmp_path) == (name,)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_cut_short_or_changed_breaks_it(name: str, tmp_path: Path) -> None:
    path = save(tmp_path) / name
    content = path.read_bytes()

    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit
    assert is_complete(tmp_path)  # as far as sizes tell
    assert damaged_files(tmp_path) == (name,)

    path.write_bytes(content[:-1])
    assert not is_complete(tmp_path)
    assert damaged_files(tmp_path) == (name,)

    path.unlink()
    assert not is_complete(tmp_path)
    assert damaged_files(tmp_path) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("adapter_config.json", "adapter_model.bin", "model.safetensors", "model.safetensors.index.json"),
        *("tokenizer.json", "vocab.txt", "merges.txt", "spiece.model", "added_tokens.json", "preprocessor_config.json"),
        *("chat_template.jinja", "additional_chat_templates/tool.jinja", "generation_config.json", "modeling_own.py"),
    ],
)
def test_a_file_that_would_be_loaded_with_a_saved_model_is_found(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    others = [
        "README.md",
        "model.gguf",
        ".cache/huggingface/x.json",
        "notes.txt",
        "requirements.txt",
        "all_results.json",
    ]
    for added in (name, *others, "training_args.bin"):
        (tmp_path / "actor" / added).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "actor" / added).write_text("{}")

    assert added_files(tmp_path, within="actor") == (f"actor/{name}",)
    assert damaged_files(tmp_path) == ()


def test_what_a_crash_left_of_an_earlier_seal_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, sealed=False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            seal(tmp_path)
    assert not is_complete(tmp_path)

    seal(tmp_path)

    assert damaged_files(tmp_path) == ()


def test_sealing_twice_is_sealing_once(tmp_path: Path) -> None:
    first = read_seal(save(tmp_path))
    seal(tmp_path)

    assert read_seal(tmp_path) == first
    assert set(first or ()) == set(FILES)


def test_every_file_and_its_folder_is_on_the_disk_before_the_seal_is_and_the_seal_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = set(), set()
    sync = os.fsync

    def note(descriptor: int) -> None:
        (after if (tmp_path / SEAL_FILE).exists() else before).add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    save(tmp_path)

    listed = {place for name in FILES for place in (tmp_path / name, (tmp_path / name).parent)}
    assert {place.stat().st_ino for place in listed} <= before
    assert {place.stat().st_ino for place in (tmp_path, tmp_path.parent)} <= after
