"""What a user may write, and what they read when they wrote something else."""

from __future__ import annotations

from datetime import date
from math import nan
from pathlib import Path
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.evaluation.config import parse_config, read_config

MODELS = {"base": "a", "tuned": "b"}
GENERATION: dict[str, Any] = {"data": "prompts.parquet"}
JUDGE: dict[str, Any] = {"base_url": "http://localhost:8000/v1", "model": "m"}
PREFERENCES: dict[str, Any] = {"objectives": {"helpful": {"data": "pairs.jsonl"}}}


def mistake(**content: Any) -> str:
    with pytest.raises(CtwaError) as error:
        parse_config({"models": MODELS, **content}, "eval.yaml")
    return str(error.value)


def test_the_defaults_are_sound() -> None:
    config = parse_config({"models": MODELS, "generation": GENERATION, "judge": JUDGE}, "eval.yaml")

    assert list(config.models) == ["base", "tuned"]
    assert config.generation is not None
    assert (config.generation.num_samples, config.generation.temperature, config.generation.seed) == (1, 1.0, 0)
    assert config.judge is not None
    assert config.judge.seed == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"generaton": GENERATION}, "generaton is no key of the configuration; did you mean 'generation'?"),
        (
            {"generation": GENERATION | {"temprature": 1}},
            "generation.temprature is no key of the configuration; did you mean",
        ),
        (
            {"generation": GENERATION | {"objectives": {"a": {"reward_fn": "m:f", "timout": 3}}}},
            "generation.objectives.a.timout is no key of the configuration; did you mean 'timeout'?",
        ),
        (
            {"reference": "r", "preferences": PREFERENCES | {"loss": {"type": "dpo", "betta": 1}}},
            "preferences.loss.betta is no key of the configuration; did you mean 'beta'?",
        ),
        (
            {"preferences": {"objectives": {"h": {"data": "x", "shade": 1}}, "loss": {"type": "simpo"}}},
            "preferences.objectives.h.shade is no key of the configuration; write one of data, format, label",
        ),
        ({}, "write a section preferences, perplexity or generation"),
        ({"preferences": PREFERENCES}, "the loss dpo compares with a reference; write reference:"),
        ({"judge": JUDGE, "perplexity": {"data": "x"}}, "the judge has no completions to compare"),
        ({"models": {"a": "x"}, "generation": GENERATION, "judge": JUDGE}, "write at least two under models"),
        ({"models": {"reference": "x"}, "generation": GENERATION}, "cannot be a model's name"),
        ({"models": {}, "generation": GENERATION}, "models: "),
        ({"perplexity": {"data": "x", "window": 8, "stride": 8}}, "stride 8 is not below window 8"),
        ({"generation": GENERATION | {"temperature": -1}}, "generation.temperature: "),
        ({"generation": GENERATION, "judge": JUDGE | {"template": "{prompt} {first} [[A]] [[B]]"}}, "lacks {second}"),
        ({"generation": GENERATION, "judge": JUDGE | {"base_url": "https://me:pw@host/v1"}}, "no user, password"),
        ({"generation": GENERATION, "judge": JUDGE | {"base_url": "localhost:8000"}}, "write http://"),
        ({"generation": GENERATION, "judge": JUDGE | {"base_url": "http://a:b/v1"}}, "no address (Invalid port: 'b')"),
        ({"generation": GENERATION, "judge": JUDGE | {"base_url": "http://[::1/v1"}}, "judge.base_url: it is no addr"),
        ({"generation": GENERATION, "judge": JUDGE | {"base_url": "http://a:65536/v1"}}, "there is no port 65536"),
        (
            {"generation": GENERATION, "judge": JUDGE | {"extra_body": {"messages": []}}},
            "judge.extra_body: messages is no further field",
        ),
        ({"generation": GENERATION, "judge": JUDGE | {"extra_body": {"model": None}}}, "model is no further field"),
        (
            {"generation": GENERATION, "judge": JUDGE | {"extra_body": {"x": [nan]}}},
            "judge.extra_body: JSON cannot say",
        ),
        (
            {"generation": GENERATION, "judge": JUDGE | {"extra_body": {"x": date(2026, 1, 1)}}},
            "JSON cannot say it (Object of type date is not JSON serializable): write texts (a date in quotes)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_to_write(content: dict[str, Any], said: str) -> None:
    assert said in mistake(**content)


def test_every_mistake_is_named_at_once() -> None:
    text = mistake(generation=GENERATION | {"limit": 0, "seeed": 1})

    assert "generation.limit" in text
    assert "generation.seeed" in text


@pytest.mark.parametrize("key", ["sk-secret-123", "Bearer abc", "secretsecret"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(key: str) -> None:
    text = mistake(generation=GENERATION, judge=JUDGE | {"api_key_env": key})

    assert "write the NAME of an environment variable" in text
    assert key not in text


@pytest.mark.parametrize(("content", "said"), [("- a\n- b\n", "holds no keys"), ("a: [", "is not YAML")])
def test_a_file_that_is_no_evaluation(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text(content)

    with pytest.raises(CtwaError, match=said):
        read_config(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CtwaError, match="there is no file"):
        read_config(tmp_path / "eval.yaml")
