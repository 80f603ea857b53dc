"""A run is resumed as what it was begun as, and what has changed is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctwa.engine.resumed import changes, refuse_another, refuse_unlike, told
from ctwa.errors import CtwaError
from ctwa.models.locate import step_folder
from ctwa.models.seal import seal
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo

CONFIG: dict[str, Any] = {
    "ctwa": {"run": "runs/a", "resume": False, "seed": 0, "objectives": {"accuracy": {"weight": 0.5}}},
    "actor": {"optim": {"lr": 1e-6}},
    "data": {"train_files": ["a.parquet"]},
    "ray_kwargs": {"ray_init": {"num_cpus": 4}},
}

KNOWN: dict[str, Any] = {
    "ctwa": {"seed": 0, "stop_on": [], "objectives": {}, "reference_length": None},
    "data": {"val_files": None, "apply_chat_template_kwargs": {}},
    "rollout": {"repetition_penalty": None, "top_p": 1.0},
    "model": {"override_config": {}},
}


def info(method: str = "ctwa", *objectives: str) -> RunInfo:
    weights = {name: ObjectiveInfo(weight=1.0) for name in objectives or ("accuracy", "brevity")}
    return RunInfo(method=method, objectives=weights, num_steps=8)


def save(run: RunFolder) -> None:
    step_folder(run.checkpoints, 2).mkdir()
    (step_folder(run.checkpoints, 2) / "data.pt").touch()
    seal(step_folder(run.checkpoints, 2))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, info())


def test_another_method_or_other_objectives_are_refused_once_there_is_a_checkpoint(run: RunFolder) -> None:
    refuse_another(run, info("linear"))
    save(run)

    refuse_another(run, info("ctwa", "brevity", "accuracy"))
    with pytest.raises(CtwaError, match="begun with the method ctwa, and is to go on with linear: resume with what"):
        refuse_another(run, info("linear"))
    with pytest.raises(CtwaError, match="begun with the objectives accuracy, brevity, and is to go on with accuracy:"):
        refuse_another(run, info("ctwa", "accuracy"))
    assert run.read_info().method == "ctwa"  # nothing of the run was touched


def test_a_place_in_the_data_is_read_by_as_many_processes_as_kept_it(tmp_path: Path) -> None:
    """torchdata's loader would say so in the first step, in words of its own."""
    key = "data.dataloader_num_workers"
    run = RunFolder.create(tmp_path / "run", {"data": {"dataloader_num_workers": 8}}, info())
    now = {"data": {"dataloader_num_workers": 0}}
    refuse_unlike(run, now, [key])  # it has no checkpoint
    save(run)

    refuse_unlike(run, now, [])  # ctwa prefer has no such place
    refuse_unlike(run, {"data": {"dataloader_num_workers": 8}}, [key, "data.unknown"])
    with pytest.raises(CtwaError, match=rf"begun with {key}=8, and its .* cannot be read with 0: write {key}=8"):
        refuse_unlike(run, now, [key])


@pytest.mark.parametrize(
    ("then", "now", "sentence"),
    [
        (
            {"sources": None},
            {"sources": {"easy": 1.0}},
            r"begun with ctwa.it.sources=nothing, .* with easy: write .*=null$",
        ),
        ({"sources": {"easy": 1.0}}, {"sources": None}, r"begun with ctwa.it.sources=easy, .* with nothing: write"),
        ({"sources": {"easy": 1.0}}, {"sources": {"easy": 2.0}}, None),
        ({}, {"sources": {"easy": 1.0}}, None),
    ],
)
def test_of_a_section_its_names_are_to_be_as_they_were(
    tmp_path: Path, then: dict[str, object], now: dict[str, object], sentence: str | None
) -> None:
    run = RunFolder.create(tmp_path / "run", {"ctwa": {"it": then}}, info())
    save(run)
    if sentence is None:
        refuse_unlike(run, {"ctwa": {"it": now}}, ["ctwa.it.sources"])
        return
    with pytest.raises(CtwaError, match=sentence):
        refuse_unlike(run, {"ctwa": {"it": now}}, ["ctwa.it.sources"])


def test_settings_that_are_not_as_they_were_are_told(run: RunFolder) -> None:
    now = {
        "ctwa": {
            "run": "/elsewhere/a",
            "resume": True,
            "seed": 1,
            "objectives": {"accuracy": {"weight": 0.5, "clip": 1.0}},
            "invented_later": 3,
        },
        "actor": {"optim": {"lr": 2e-6}},
        "data": {"train_files": ["b.parquet", "c.parquet"]},
        "ray_kwargs": {"ray_init": {"num_cpus": 8}},
    }

    assert changes(run, now, KNOWN) == [
        "ctwa.seed: 0 -> 1",
        "ctwa.objectives.accuracy.clip: nothing -> 1.0",
        "actor.optim.lr: 1e-06 -> 2e-06",
        "data.train_files: a.parquet -> b.parquet, c.parquet",
    ]
    assert changes(run, CONFIG, KNOWN) == []
    assert changes(RunFolder(run.path / "nowhere"), now, KNOWN) == []


@pytest.mark.parametrize(
    ("then", "now", "told_of"),
    [
        (None, {"accuracy": [0, 5]}, "nothing -> 0, 5"),
        ({"accuracy": [0, 5]}, None, "0, 5 -> nothing"),
        ({"accuracy": [0, 5]}, {"accuracy": [0, 9]}, "0, 5 -> 0, 9"),
        ({}, {"accuracy": [0, 5]}, "nothing -> 0, 5"),
    ],
)
def test_an_option_of_one_objective_that_comes_or_goes_is_told(
    tmp_path: Path, then: Any, now: Any, told_of: str
) -> None:
    before, after = (
        {"ctwa": {"method": {"bounds": bounds}, "objectives": {"accuracy": {"weight": 0.5}}}} for bounds in (then, now)
    )
    run = RunFolder.create(tmp_path / "run", before, info())
    assert changes(run, after, KNOWN) == [f"ctwa.method.bounds.accuracy: {told_of}"]


@pytest.mark.parametrize(
    ("then", "now", "told_of"),
    [
        (
            {"data": {"apply_chat_template_kwargs": {}}},
            {"data": {"apply_chat_template_kwargs": {"thinks": False}}},
            ["data.apply_chat_template_kwargs.thinks: nothing -> False"],
        ),
        (
            {"model": {"override_config": {"a": 1}}},
            {"model": {"override_config": {}}},
            ["model.override_config.a: 1 -> nothing"],
        ),
        ({"model": {"override_config": {"a": None}}}, {"model": {"override_config": {}}}, []),
        (
            {"ctwa": {"reference_length": None}},
            {"ctwa": {"reference_length": {"type": "fixed", "tokens": 50}}},
            ["ctwa.reference_length.type: nothing -> fixed", "ctwa.reference_length.tokens: nothing -> 50"],
        ),
        (
            {"data": {"val_files": ["a.parquet"]}},
            {"data": {"val_files": {"x": ["a.parquet"]}}},
            ["data.val_files: a.parquet -> {x: a.parquet}"],
        ),
        ({"rollout": {}}, {"rollout": {"repetition_penalty": 1.5}}, ["rollout.repetition_penalty: nothing -> 1.5"]),
        ({"rollout": {"repetition_penalty": 1.5}}, {"rollout": {}}, ["rollout.repetition_penalty: 1.5 -> nothing"]),
        ({"rollout": {}}, {"rollout": {"top_p": 1.0}}, []),  # a key of this version, with its default
        ({"rollout": {"gone": 1.0}}, {"rollout": {}}, []),  # a key of an older version
        ({"ctwa": {"method": {"old": 3}}}, {"ctwa": {"method": {"new": 3}}}, []),
        (
            {"model": {"override_config": 3}},
            {"model": {"override_config": {"b": [], "c": 0}}},
            ["model.override_config: 3 -> {b: nothing, c: 0}"],
        ),
    ],
)
def test_what_only_one_configuration_has_is_told_unless_it_is_of_another_version(
    tmp_path: Path, then: Any, now: Any, told_of: list[str]
) -> None:
    run = RunFolder.create(tmp_path / "run", then, info())
    assert changes(run, now, KNOWN) == told_of
    assert changes(run, then, KNOWN) == []


def test_many_changes_are_told_in_part() -> None:
    assert told(["a: 1 -> 2"]) == "other settings than before: a: 1 -> 2"
    assert told([f"{number}: 1 -> 2" for number in range(10)]).endswith("7: 1 -> 2; and 2 more")


def test_a_configuration_that_cannot_be_read_is_said(run: RunFolder) -> None:
    run.config.write_text("a: [")
    with pytest.raises(CtwaError, match=r"config\.yaml is not YAML .*: restore it, or take it away"):
        changes(run, CONFIG, KNOWN)
