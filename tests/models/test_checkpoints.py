"""A run's checkpoints in the hands of who looks after them: `ctwa checkpoints`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner, Result

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.evaluation.runs import conditioning_of
from ctwa.models.adapter import ADAPTER
from ctwa.models.conditioned import Conditioned
from ctwa.models.locate import BEST, step_folder, steps
from ctwa.models.seal import seal
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.lock import hold
from ctwa.run.trace import TraceWriter
from tests.models.hub import Hub

SIZE = Qwen2Config(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of four checkpoints, of which the first was the best and the last never saved to its end."""
    info = RunInfo(
        method="ctwa",
        objectives={"accuracy": ObjectiveInfo(weight=0.5), "brevity": ObjectiveInfo(weight=0.5)},
        num_steps=8,
        model=str(tmp_path / "secret" / "base"),
        seed=3,
        versions={"ctwa": "1.2", "torch": "2.13.0"},
    )
    run = RunFolder.create(tmp_path / "mine", {}, info)
    with TraceWriter(run.metrics) as trace:
        trace.write(0, {"val/accuracy": 0.25, "val/brevity": 0.5})
        for step in range(1, 9):
            trace.write(step, {"val/accuracy": 0.25 + step / 16, "val/brevity": 0.5, "weight/accuracy": step / 8})
    for step in (2, 4, 6, 8):
        folder = step_folder(run.checkpoints, step)
        torch.manual_seed(step)
        Qwen2ForCausalLM(SIZE).save_pretrained(folder / "actor" / "huggingface", max_shard_size="2KB")
        (folder / "data.pt").write_bytes(b"position")
        if step < 8:
            seal(folder)
    (run.checkpoints / BEST).symlink_to("global_step_2")
    return run


def checkpoints(run: RunFolder, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["checkpoints", str(run.path), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def said_of(output: str) -> dict[str, str]:
    """What is said of each step, without its size."""
    return {line.split()[0]: line.split("MB  ")[1] for line in output.splitlines()}


def test_they_are_listed_with_what_is_known_of_them(run: RunFolder) -> None:
    (step_folder(run.checkpoints, 4) / "data.pt").write_bytes(b"Position")  # of the same size

    listed, verified = checkpoints(run), checkpoints(run, "--verify")

    assert (listed.exit_code, verified.exit_code) == (0, 1)
    unfinished = {"global_step_8": "unfinished: not saved to its end"}
    assert said_of(listed.output) == {
        "global_step_2": "complete, by the sizes of its files; early stopping kept it",
        "global_step_4": "complete, by the sizes of its files",
        "global_step_6": "complete, by the sizes of its files",
        **unfinished,
    }
    assert said_of(verified.output) == {
        "global_step_2": "whole: every byte is what was saved; early stopping kept it",
        "global_step_4": "damaged: data.pt",
        "global_step_6": "whole: every byte is what was saved",
        **unfinished,
    }


def test_pruning_keeps_the_newest_and_the_best(run: RunFolder) -> None:
    assert checkpoints(run, "--keep", "1").output.splitlines()[0] == "removed: global_step_4"
    assert steps(run.checkpoints) == [2, 6, 8]  # the last may be a save that goes on
    assert checkpoints(run, "--keep", "1").output.splitlines()[0] == "removed: nothing"


def test_what_cannot_be_removed_is_not_said_to_be(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, say, or on a disk that is read-only."""

    def cannot(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.unlink", cannot)
    assert checkpoints(run, "--keep", "1").output.startswith("removed: nothing\n")
    assert steps(run.checkpoints) == [2, 4, 6, 8]


def test_only_whole_checkpoints_count_among_those_that_stay_and_what_is_exported_is_there(
    run: RunFolder, tmp_path: Path
) -> None:
    (step_folder(run.checkpoints, 6) / "data.pt").write_bytes(b"Position")  # of the same size
    (run.checkpoints / "global_step_007").mkdir()
    (run.checkpoints / "global_step_1").write_text("notes")

    checkpoints(run, "--keep", "1", "--export", str(tmp_path / "out"), "--step", "4")
    assert steps(run.checkpoints) == [2, 4, 6, 8]
    assert (tmp_path / "out" / "README.md").is_file()
    assert checkpoints(run, "--keep", "2").output.startswith("removed: nothing\n")
    assert (run.checkpoints / "global_step_007").is_dir()


def test_a_run_that_goes_on_prunes_by_itself(run: RunFolder) -> None:
    with run.metrics.open("ab") as writer:
        hold(writer)
        with pytest.raises(CtwaError, match="goes on, and prunes by itself"):
            checkpoints(run, "--keep", "1")
    assert steps(run.checkpoints) == [2, 4, 6, 8]


def test_an_exported_model_is_the_saved_one_with_a_card(run: RunFolder, tmp_path: Path) -> None:
    said = checkpoints(run, "--export", str(tmp_path / "out"), "--step", "6", "--dtype", "bfloat16")

    assert said.output == f"exported: global_step_6 to {tmp_path / 'out'}\n"
    saved = AutoModelForCausalLM.from_pretrained(step_folder(run.checkpoints, 6) / "actor" / "huggingface")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    for name, tensor in saved.state_dict().items():
        assert torch.equal(exported[name], tensor.bfloat16()), name
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = {name for name, _ in saved.named_parameters()}
    assert index["metadata"]["total_size"] == sum(2 * exported[name].numel() for name in index["weight_map"])
    assert names <= set(index["weight_map"]) | {"lm_head.weight"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# mine\n" in card
    assert "2 objectives by `ctwa`, with ctwa 1.2, from `base`; step 6 of 8, seed 3." in card
    assert "| accuracy | 0.500 to 0.750 | 0.250 | 0.625 |" in card
    assert "| brevity | 0.500 | 0.500 | 0.500 |" in card
    assert str(tmp_path) not in card


def test_what_was_put_beside_a_saved_model_is_not_exported(run: RunFolder, tmp_path: Path) -> None:
    """Who pushes a run that was downloaded would publish what a link in it leads to."""
    private = tmp_path / "private.json"
    private.write_text("{}")
    model = step_folder(run.checkpoints, 4) / "actor" / "huggingface"
    (model / "settings.json").symlink_to(private)
    (model / "modeling.py").write_text("")

    checkpoints(run, "--export", str(tmp_path / "out"), "--step", "4")

    assert not {"settings.json", "modeling.py"} & {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_link_that_a_seal_lists_is_not_exported_either(run: RunFolder, tmp_path: Path) -> None:
    """An old seal has sizes alone, and that of a downloaded run says what its maker likes."""
    private = tmp_path / "private.txt"
    private.write_text("secret")
    checkpoint = step_folder(run.checkpoints, 4)
    (checkpoint / "actor" / "huggingface" / "notes.txt").symlink_to(private)
    seal(checkpoint)

    with pytest.raises(CtwaError, match=r"notes.txt leads to another folder, .*: put the file itself in its place"):
        checkpoints(run, "--export", str(tmp_path / "out"), "--step", "4")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_exported_alone_and_names_its_model(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CtwaError, match="has no adapter of its own: its run trained all weights"):
        checkpoints(run, "--export", str(tmp_path / "out"), "--adapter", "--step", "6")
    saved = step_folder(run.checkpoints, 6) / "actor" / ADAPTER
    saved.mkdir()
    save_file({"lora_A.weight": torch.ones(2, 3)}, saved / "adapter_model.safetensors")
    (saved / "adapter_config.json").write_text(json.dumps({"r": 2}))
    seal(saved.parent.parent)

    checkpoints(run, "--export", str(tmp_path / "out"), "--adapter", "--step", "6", "--dtype", "bfloat16")

    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert load_file(tmp_path / "out/adapter_model.safetensors")["lora_A.weight"].dtype == torch.bfloat16
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config == {"r": 2, "base_model_name_or_path": "base"}
    assert (tmp_path / "out/README.md").read_text().startswith("---\nlibrary_name: peft\n")


def test_without_a_step_the_best_is_exported_as_it_is(run: RunFolder, tmp_path: Path) -> None:
    checkpoints(run, "--export", str(tmp_path / "out"))

    best = step_folder(run.checkpoints, 2) / "actor" / "huggingface"
    for file in best.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert os.access(tmp_path / "out" / "README.md", os.R_OK)


def test_what_cannot_be_exported_is_said(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(CtwaError, match="there exists already: give another folder"):
        checkpoints(run, "--export", str(tmp_path / "there"))
    with pytest.raises(CtwaError, match=r"has no such checkpoint: `ctwa checkpoints .*mine` lists them"):
        checkpoints(run, "--export", str(tmp_path / "out"), "--step", "5")
    with pytest.raises(CtwaError, match=r"global_step_8 is not what was saved \(complete.json\): export another"):
        checkpoints(run, "--export", str(tmp_path / "out"), "--step", "8")
    with pytest.raises(CtwaError, match="--push and --dry-run are of --export"):
        checkpoints(run, "--step", "6")
    with pytest.raises(CtwaError, match="holds no run"):
        checkpoints(RunFolder(tmp_path / "nothing"))
    assert not (tmp_path / "out").exists()


TOKEN = "hf_planted"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_an_export_is_pushed_where_that_is_asked_for(run: RunFolder, hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("--export", str(out), "--push", "me/mine")

    told = checkpoints(run, *asked, "--dry-run").output
    assert f"would push: these files to {hub.address}/me/mine, private if new" in told
    assert "would write: README.md, " in told
    assert not out.exists()
    assert hub.made == []

    told = checkpoints(run, *asked).output
    assert told.splitlines()[-1] == f"pushed: {hub.address}/me/mine/commit/1"
    assert TOKEN not in told
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert [(each["name"], each["visibility"]) for each in hub.made] == [("mine", "private")]
    assert hub.files == {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert hub.files["README.md"].startswith(b"---")


def test_a_hub_that_refuses_leaves_the_export_and_no_token(run: RunFolder, hub: Hub, tmp_path: Path) -> None:
    hub.status = 403
    with pytest.raises(CtwaError, match=r"did not take the model .*403.*; it is in .*out, and `hf upload") as told:
        checkpoints(run, "--export", str(tmp_path / "out"), "--push", "me/mine", "--public")

    assert TOKEN not in str(told.value)
    assert (tmp_path / "out" / "README.md").is_file()


def test_without_a_token_nothing_is_exported(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(CtwaError, match="there is no token of the hub: write it to the variable HF_TOKEN"):
        checkpoints(run, "--export", str(tmp_path / "out"), "--push", "me/mine")

    assert not (tmp_path / "out").exists()


def test_an_exported_model_says_how_its_prompts_are_told_weights(run: RunFolder, tmp_path: Path) -> None:
    told = {"template": "{weights}: {prompt}", "resolution": 9, "concentration": 1.0}
    objectives = {"accuracy": {"weight": 0.75}, "brevity": {"weight": 0.25}, "val": {"split": "val"}}
    run.config.write_text(yaml.safe_dump({"ctwa": {"conditioning": told, "objectives": objectives}}))
    checkpoints(run, "--export", str(tmp_path / "out"))

    assert conditioning_of(tmp_path / "out") == conditioning_of(run.path)
    assert conditioning_of(tmp_path / "out") == Conditioned(
        "{weights}: {prompt}", 9, {"accuracy": 0.75, "brevity": 0.25}
    )
    assert "```text\n{weights}: {prompt}\n```" in (tmp_path / "out" / "README.md").read_text()
