"""Models whose weights are chosen at the evaluation, and their fronts beside each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ctwa.errors import CtwaError
from ctwa.evaluation.config import parse_config
from ctwa.evaluation.evaluate import evaluate
from ctwa.evaluation.results import results_text
from ctwa.evaluation.runs import Choice, config_of
from ctwa.run import ObjectiveInfo, RunFolder, RunInfo

MIXED = {"accuracy": 0.5, "clarity": 0.5}
ALONE = {"accuracy": 1.0}


@pytest.fixture(scope="module")
def conditioned(places: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `places`, as if its prompts had been told weights."""
    run = tmp_path_factory.mktemp("runs") / "told"
    shutil.copytree(places.run, run)
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["ctwa"]["conditioning"] = {
        "concentration": 1.0,
        "resolution": 9,
        "template": "{accuracy} {clarity} ; {prompt}",
    }
    content["ctwa"]["objectives"]["accuracy"]["weight"] = 2.0
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    return run


def test_fronts_of_three_kinds_stand_beside_each_other(
    places: SimpleNamespace, conditioned: Path, tmp_path: Path
) -> None:
    experts = {"accuracy": str(places.run), "clarity": str(places.base)}
    config = config_of([str(conditioned), str(places.run)], choice=Choice([MIXED, ALONE, MIXED], experts), trust=True)

    results = evaluate(config, tmp_path / "out")

    [section] = results.sections
    found = json.loads((tmp_path / "out/results.json").read_text())["sections"]["generation"]["fronts"]
    assert found["objectives"] == ["accuracy", "clarity"]
    fronts = [None, "models", "told", "told", "mod", "mod", "soup", "soup"]
    assert [point["front"] for point in found["points"]] == fronts
    # Of nine parts, half of them are 4.5: what was told is what was written.
    assert found["points"][2]["weights"] == {"accuracy": pytest.approx(5 / 9), "clarity": pytest.approx(4 / 9)}
    assert list(found["hypervolumes"]) == ["models", "told", "mod", "soup"]
    responses: dict[str, list[Any]] = {}
    for line in (tmp_path / "out/samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        responses.setdefault(sample["model"], []).append(sample["response"])
    # With all weight, an expert is itself, however it is combined.
    assert responses["mod 1/0"] == responses["soup 1/0"] == responses["ctwa-s0"]
    assert responses["mod 0.5/0.5"] != responses["ctwa-s0"]
    assert responses["soup 0.5/0.5"] not in (responses["ctwa-s0"], responses["mod 0.5/0.5"])
    assert responses["told 0.5556/0.4444"] != responses["told 1/0"]
    text = results_text(results)
    assert "weights of accuracy/clarity" in text
    assert section.fronts is not None
    assert next(line for line in text.splitlines() if line.startswith("told ")).split()[1] == "0.56/0.44"


def test_a_run_with_conditioning_is_told_its_own_weights_where_none_are_chosen(conditioned: Path) -> None:
    config = config_of([str(conditioned)], trust=True)

    assert config.weights == [{"accuracy": 2.0, "clarity": 1.0}]
    assert config.conditioned["told"].objectives == ["accuracy", "clarity"]


@pytest.mark.parametrize("config", [{"imported": {}}, {"trl": {}, "ctwa": {"method": {"type": "linear"}}}])
def test_a_run_of_another_trainer_has_no_task_to_evaluate_on(tmp_path: Path, config: dict[str, Any]) -> None:
    info = RunInfo(method="grpo", objectives={"a": ObjectiveInfo(weight=None)}, num_steps=1)
    run = RunFolder.create(tmp_path / "theirs", config, info)

    with pytest.raises(CtwaError, match=r"theirs is a run of another trainer.*write an evaluation's YAML file"):
        config_of([str(run.path)])


def test_combine_without_experts_is_refused() -> None:
    content = {"models": {"base": "m"}, "combine": ["mod"], "perplexity": {"data": "x.jsonl"}}

    with pytest.raises(CtwaError, match="does nothing with no experts: leave it out"):
        parse_config(content, "eval.yaml")


def test_weights_want_somebody_who_takes_them(places: SimpleNamespace) -> None:
    with pytest.raises(CtwaError, match=r"--weights: none of .* is a run with ctwa\.conditioning"):
        config_of([str(places.run)], choice=Choice([MIXED]), trust=True)
    with pytest.raises(CtwaError, match="experts are combined by weights; give some"):
        config_of([str(places.run)], choice=Choice([], {"accuracy": "a", "clarity": "b"}), trust=True)


@pytest.mark.parametrize(
    ("weights", "experts", "combine", "said"),
    [
        (["accuracy"], {}, [], "--weights accuracy: write weights by objective"),
        (["a=x"], {}, [], "--weights a=x: write weights by objective"),
        (["a=1,a=2"], {}, [], "an objective is there twice"),
        (["a=-1"], {}, [], "'a' has the weight -1.0; write a finite number"),
        (["a=0,b=0"], {}, [], "has a weight above 0"),
        ([], {}, ["mod"], "--combine does nothing without experts"),
        ([], {"a": "runs/a"}, ["stew"], "--combine stew: write mod or soup"),
    ],
)
def test_words_that_say_nothing_are_refused(
    weights: list[str], experts: dict[str, str], combine: list[str], said: str
) -> None:
    with pytest.raises(CtwaError, match=said):
        Choice.read(weights, experts, combine)


GENERATION: dict[str, Any] = {"data": "p.parquet", "objectives": {"a": {"reward_fn": "m:a"}, "b": {"reward_fn": "m:b"}}}
EXPERTS = {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": [{"a": 1.0}]}, "write conditioned or experts, too"),
        ({"experts": EXPERTS}, "write weights, too"),
        ({"experts": {"a": "one"}, "weights": [{"a": 1.0}]}, "give at least two, each for its objective"),
        ({"experts": EXPERTS, "weights": [{"a": -1.0}]}, "weights.0.a: "),
        ({"experts": EXPERTS, "weights": [{"a": 1.0}], "perplexity": {"data": "t"}}, "for completions alone"),
        ({"experts": EXPERTS, "weights": [{"a": 1.0}], "generation": {"data": "p"}}, "write generation.objectives"),
        (
            {"experts": EXPERTS, "weights": [{"a": 1.0}], "generation": GENERATION | {"backend": "vllm"}},
            "write generation.backend: transformers",
        ),
        (
            {"conditioned": {"base": {"model": "m", "objectives": ["a", "b"]}}, "weights": [{"a": 1.0}]},
            "'base' is the name of two models",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(CtwaError, match=said):
        parse_config({"models": {"base": "m"}, "generation": GENERATION, **content}, "eval.yaml")


def test_experts_of_different_tokens_are_not_mixed(places: SimpleNamespace, tmp_path: Path) -> None:
    other = shutil.copytree(places.base, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"3": tokenizer["model"]["vocab"]["4"], "4": tokenizer["model"]["vocab"]["3"]}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    experts = {"accuracy": str(places.base), "clarity": str(other)}
    config = config_of([str(places.run)], choice=Choice([MIXED], experts, ["mod"]), trust=True)

    with pytest.raises(CtwaError, match="have different tokens, and MOD mixes their probabilities token by token"):
        evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
