"""What a model responds to the rows that reward functions are tried on."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.data.reading import first_rows
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError
from ctwa.evaluation.sampled import sample_responses, tokenizer_of


def sample(places: SimpleNamespace, **changes):
    data = places.testbed / "held_out.parquet"
    settings = {"num_samples": 3, "max_tokens": 6, "temperature": 1.0, "seed": 0, "data": data, "say": lambda _: None}
    return sample_responses(
        str(places.testbed / "model"), first_rows(str(data), RowSettings(), str, 2), **{**settings, **changes}
    )


def test_a_model_responds_to_every_row_as_often_as_it_is_asked(places: SimpleNamespace) -> None:
    told: list[str] = []
    responses, source = sample(places, say=told.append)
    assert [len(of_row) for of_row in responses] == [3, 3]
    assert all(1 <= each.num_tokens <= 6 for of_row in responses for each in of_row)
    assert re.search(
        r"the responses are 3 a prompt by \S+model, at temperature 1, seed 0; \d of 6 were cut off", source
    )
    assert told[0].startswith("sampling 6 completions of at most 6 tokens by ")
    assert sample(places)[0] == responses
    assert sample(places, seed=1)[0] != responses


def test_the_command_scores_what_the_model_writes(places: SimpleNamespace) -> None:
    data, model = str(places.testbed / "held_out.parquet"), str(places.testbed / "model")
    specs = ["ctwa.testbed.rewards:accuracy", "ctwa.testbed.rewards:clarity"]
    options = ["--data", data, "--model", model, "--n", "2", "--max-tokens", "8", "--limit", "3"]
    result = CliRunner().invoke(app, ["check-reward", *specs, *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert "within the completions of 3 prompts" in result.output
    assert "accuracy, clarity" in result.output


def test_tokens_are_the_tokenizer_s(places: SimpleNamespace) -> None:
    tokenize = tokenizer_of(str(places.testbed / "model"))
    *tokens, end = tokenize("Step 1 : 3 + 4 = 7 .")
    assert len(tokens) > len(tokenize("Step 1")) > 1
    assert tokenize("") == [end]


def test_a_model_that_is_not_there_is_refused(places: SimpleNamespace) -> None:
    with pytest.raises(CtwaError, match="nowhere"):
        tokenizer_of(str(places.testbed / "nowhere"))
