"""Responses of a model to the rows that reward functions are tried on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctwa.data.rows import prompt_fault
from ctwa.errors import CtwaError
from ctwa.evaluation.config import GenerationConfig
from ctwa.evaluation.generation import generate, tokenize_prompts
from ctwa.evaluation.models import Model
from ctwa.objectives.responses import Response


def sample_responses(
    source: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    data: str | Path,
    num_samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    say: Callable[[str], None],
) -> tuple[list[list[Response]], str]:
    """A model's responses to rows in verl's format, sampled as in training.

    Args:
        source: a folder, a run or a name of the hub.
        rows: of the data.
        data: their file, for the messages.
        num_samples: responses to each.
        max_tokens: of a response.
        temperature: of the draws.
        seed: of the draws.
        say: is told what is done and how far it is.

    Returns:
        The responses to each row, and a sentence on where they come from.

    Raises:
        CtwaError: there is no such model, or a row has no prompt for it.
    """
    for index, row in enumerate(rows):
        if fault := prompt_fault(row.get("prompt"), text=True):
            raise CtwaError(f"{data}, row {index} (from 0): {fault}")
    model = Model(Path(source).name, source)
    model.look()
    config = GenerationConfig(
        data=str(data), num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    prompts = tokenize_prompts(model, rows, config)
    total = len(prompts) * num_samples
    say(f"sampling {total} completions of at most {max_tokens} tokens by {source}, on the {model.device}")
    with tempfile.TemporaryDirectory(prefix="ctwa-check-") as cache:
        samples = generate(model, prompts, config, Path(cache), lambda done: say(f"{done} of {total} completions"))
    responses: list[list[Response]] = [[] for _ in rows]
    for each in samples:
        responses[each.row].append(Response(each.response, len(each.token_ids), each.finished, each.token_ids))
    cut = sum(not each.finished for each in samples)
    told = f"the responses are {num_samples} a prompt by {source}, at temperature {temperature:g}, seed {seed}"
    return responses, told + (f"; {cut} of {total} were cut off at {max_tokens} tokens" if cut else "")


def tokenizer_of(source: str) -> Callable[[str], list[int]]:
    """The tokens of a text and the end of its sequence, by the tokenizer of a model.

    Raises:
        CtwaError: there is none.
    """
    tokenizer = Model(Path(source).name, source).tokenizer
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return lambda text: [*tokenizer(text, add_special_tokens=False)["input_ids"], *end]
