"""Models whose weights are chosen at the evaluation, and their fronts beside each other."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from transformers import GenerationMixin

from ctwa.errors import CtwaError
from ctwa.evaluation.config import Combination, EvalConfig, parse_config
from ctwa.evaluation.evaluate import evaluate
from ctwa.evaluation.results import results_text
from ctwa.evaluation.runs import Choice, config_of
from ctwa.evaluation.steered import Steered, steered_models
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
    responses = responses_by_model(tmp_path / "out")
    # With all weight, an expert is itself, however it is combined.
    assert responses["mod 1/0"] == responses["soup 1/0"] == responses["ctwa-s0"]
    assert responses["mod 0.5/0.5"] != responses["ctwa-s0"]
    assert responses["soup 0.5/0.5"] not in (responses["ctwa-s0"], responses["mod 0.5/0.5"])
    assert responses["told 0.5556/0.4444"] != responses["told 1/0"]
    text = results_text(results)
    assert "weights of accuracy/clarity" in text
    assert section.fronts is not None
    assert next(line for line in text.splitlines() if line.startswith("told ")).split()[1] == "0.56/0.44"


def responses_by_model(out: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (out / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        found.setdefault(sample["model"], []).append(sample["response"])
    return found


def combined(places: SimpleNamespace, experts: dict[str, str], *weights: dict[str, float]) -> EvalConfig:
    return config_of([str(places.run)], choice=Choice(weights, experts), trust=True, limit=4, num_samples=1)


def test_experts_that_change_places_in_one_folder_are_another_model(places: SimpleNamespace, tmp_path: Path) -> None:
    """What an objective's expert is counts, and not the order in which they are given."""
    one, other, weights = str(places.run), str(places.base), {"accuracy": 0.9, "clarity": 0.1}
    swapped = combined(places, {"clarity": one, "accuracy": other}, weights)

    evaluate(combined(places, {"accuracy": one, "clarity": other}, weights), tmp_path / "out")
    first = responses_by_model(tmp_path / "out")
    evaluate(swapped, tmp_path / "out")
    evaluate(swapped, tmp_path / "fresh")

    found, fresh = responses_by_model(tmp_path / "out"), responses_by_model(tmp_path / "fresh")
    assert found == fresh
    for how in ("mod 0.9/0.1", "soup 0.9/0.1"):
        assert found[how] != first[how]


@pytest.mark.parametrize("how", ["mod", "soup"])
def test_the_order_in_which_experts_are_given_says_nothing(places: SimpleNamespace, how: Combination) -> None:
    def made(experts: dict[str, str]) -> Steered:
        config = combined(places, experts, {"accuracy": 0.9, "clarity": 0.1}).model_copy(update={"combine": [how]})
        [model] = steered_models(config, {})
        return model

    experts = {"accuracy": str(places.run), "clarity": str(places.base)}
    one, other = made(experts), made(dict(reversed(experts.items())))
    assert other.fingerprint == one.fingerprint
    assert [part.source for part in other.parts] == [part.source for part in one.parts]  # floats are summed in order
    choices = [Choice([MIXED], each) for each in (experts, dict(reversed(experts.items())))]
    assert [choice.targets for choice in choices] == [[str(places.run)]] * 2  # whose task it is


@pytest.mark.parametrize("equal", [{"accuracy": 6.0, "clarity": 4.0}, {"accuracy": 0.9 / 3, "clarity": 0.6 / 3}])
def test_choices_are_one_only_where_their_shares_are(places: SimpleNamespace, equal: dict[str, float]) -> None:
    experts = {"accuracy": str(places.run), "clarity": str(places.base)}
    chosen = {"accuracy": 0.6, "clarity": 0.4}

    assert [each.name for each in steered_models(combined(places, experts, chosen, equal), {})] == [
        "mod 0.6/0.4",
        "soup 0.6/0.4",
    ]
    near = {"accuracy": 6.0, "clarity": 4.0000001}
    with pytest.raises(
        CtwaError, match=r"the same to the four digits that name them, 'mod 0\.6/0\.4': .*; leave one out"
    ):
        steered_models(combined(places, experts, chosen, near), {})


def num_loaded() -> int:
    """The language models in memory."""
    gc.collect()
    return sum(issubclass(type(each), GenerationMixin) for each in gc.get_objects())


def test_no_more_models_are_in_memory_than_one_uses(places: SimpleNamespace, tmp_path: Path) -> None:
    """MOD has its experts there, and a soup is itself alone, also behind MOD."""
    experts = {"accuracy": str(places.run), "clarity": str(places.base)}
    config = combined(places, experts, MIXED, {"accuracy": 0.9, "clarity": 0.1})
    seen: dict[str, int] = {}

    def look(label: str, done: int, total: int) -> None:
        del done, total
        if label.startswith("generation "):
            seen[label.removeprefix("generation ")] = num_loaded() - before

    before = num_loaded()
    evaluate(config, tmp_path / "out", look)

    alone, mixed = ("base", "ctwa-s0", "soup 0.5/0.5", "soup 0.9/0.1"), ("mod 0.5/0.5", "mod 0.9/0.1")
    assert seen == dict.fromkeys(alone, 1) | dict.fromkeys(mixed, 2)


def test_a_run_with_conditioning_is_no_expert(places: SimpleNamespace, conditioned: Path, tmp_path: Path) -> None:
    experts = {"accuracy": str(places.run), "clarity": str(conditioned)}
    with pytest.raises(CtwaError, match=r"the expert of 'clarity', .*told, was trained with ctwa\.conditioning"):
        evaluate(combined(places, experts, MIXED), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_a_run_with_conditioning_among_the_models_it_is_said_that_it_is_told_nothing(
    places: SimpleNamespace, conditioned: Path, tmp_path: Path
) -> None:
    told = config_of([str(conditioned)], trust=True, limit=2, num_samples=1)
    plain = told.model_copy(update={"models": {"plain": str(conditioned)}, "conditioned": {}, "weights": []})
    note = "plain was trained with ctwa.conditioning, and its prompts are told no weights here"

    assert note in results_text(evaluate(plain, tmp_path / "plain"))
    assert "told no weights" not in results_text(evaluate(told, tmp_path / "told"))


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
NAMED: dict[str, Any] = {**GENERATION, "objectives": {"onee": {"reward_fn": "m:a"}, "b": {"reward_fn": "m:b"}}}


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
        (
            {"experts": {"one": "m", "b": "two"}, "weights": [{"b": 1.0}], "generation": NAMED},
            "experts names 'one', which generation.objectives does not score; write one of onee, b",
        ),
        (
            {"experts": {"onee": "m", "b": "two"}, "weights": [{"b": 1.0}, {"one": 1.0}], "generation": NAMED},
            r"weights.1 names 'one', which .* have it scored; did you mean 'onee'\?",
        ),
        (
            {
                "conditioned": {"told": {"model": "m", "objectives": ["b", "c"]}},
                "weights": [{"b": 1.0}],
                "generation": NAMED,
            },
            "conditioned.told.objectives names 'c', which generation.objectives does not score",
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
