"""What a reward function is tried on: responses that are given, read from a file, or made in the forms of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctwa.data.rows import text_fault
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.completion import Completion
from ctwa.objectives.contract import shortened

PROBES = {
    "ground truth": r"\boxed{ANSWER}",
    "wrong answer": r"\boxed{ANSWER}",
    "empty": "",
    "sentence": "The answer is ANSWER.",
    "tags": "<think>\nI work it out.\n</think>\n<answer>\nANSWER\n</answer>",
    "steps": "Step 1: I work it out.\n\nStep 2: That gives the answer.\n\n\\boxed{ANSWER}\n#### ANSWER",
}
"""What a function is tried on where there are no responses: the forms that answers, and rewards of a form, have."""
FORMS_OF_TRUTH = ("ground truth", "sentence", "tags", "steps")
"""Those of them that hold the row's ground truth."""


@dataclass(frozen=True)
class Response:
    """A response whose tokens are known.

    Attributes:
        text: without special tokens.
        num_tokens: with the end of sequence.
        finished: it ended by itself, not at the length limit.
        token_ids: the tokens; None where words were counted.
    """

    text: str
    num_tokens: int
    finished: bool = True
    token_ids: Sequence[int] | None = None


Sampler = Callable[[Sequence[Mapping[str, Any]]], tuple[Sequence[Sequence[Response]], str]]
"""Of rows: responses to each, and a sentence on where they come from."""


def measured(text: str, tokenize: Callable[[str], Sequence[int]] | None) -> Response:
    """A text with its tokens, or with its words where there is no tokenizer."""
    if tokenize is None:
        return Response(text, len(text.split()) + 1)
    token_ids = tokenize(text)
    return Response(text, len(token_ids), token_ids=token_ids)


def samples_of(responses: Sequence[Any]) -> list[tuple[int, str, str | Response]]:
    """Responses of rows, each a text or several, as (row, kind, response).

    Raises:
        CtwaError: one is neither, or holds what no text may.
    """
    samples: list[tuple[int, str, str | Response]] = []
    for row, found in enumerate(responses):
        of_row = [found] if isinstance(found, str) else found
        kinds = (str, Response)
        if not isinstance(of_row, Sequence) or not of_row or not all(isinstance(each, kinds) for each in of_row):
            raise CtwaError(
                f"the response of row {row} (from 0) is {shortened(repr(found), 60)}; give text, or a list of texts"
            )
        for response in of_row:
            if isinstance(response, str) and (fault := text_fault(response)):
                raise CtwaError(f"the response of row {row} (from 0) has {fault}; mend it")
            samples.append((row, "response", response))
    return samples


def probes_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str | Response]]:
    """The forms of answers for each row, as (row, kind, text)."""
    golds = [Completion.from_row(row, response="", response_tokens=0).ground_truth for row in rows]
    samples: list[tuple[int, str, str | Response]] = []
    for row, gold in enumerate(golds):
        others = (other for other in golds[row + 1 :] + golds[:row] if str(other) != str(gold))
        wrong = next(others, "1" if str(gold) == "0" else "0")
        gold = "42" if gold is None else gold
        samples += [
            (row, kind, form.replace("ANSWER", str(wrong if kind == "wrong answer" else gold)))
            for kind, form in PROBES.items()
        ]
    return samples


def of_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Any] | None, str]:
    """The responses that rows bring along, None for none, and what that means in words.

    Raises:
        CtwaError: a row lacks its own, and the first one has it.
    """
    if "response" in rows[0]:
        return of_column(rows, "response"), "the responses are the data's column 'response'"
    return None, f"the data has no responses: probed are {', '.join(PROBES)} (--text gives one of your own)"


def of_column(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """What a column of responses has in each row.

    Raises:
        CtwaError: a row lacks it.
    """
    for index, row in enumerate(rows):
        if column not in row:
            raise CtwaError(f"row {index} (from 0) of the data has no '{column}', as row 0 has: write it in every row")
    return [row[column] for row in rows]


def read_responses(responses: str, rows: Sequence[Mapping[str, Any]], data: str | Path) -> list[str | list[str]]:
    """Those of a column of the rows, or of a ``.jsonl`` file with one line a row.

    Raises:
        CtwaError: there is no such column or file, or a line holds no response.
    """
    if responses in rows[0]:
        return of_column(rows, responses)
    path = Path(responses)
    if not path.is_file():
        raise CtwaError(
            f"responses '{responses}' is neither a column of {data} ({', '.join(rows[0])}) nor a .jsonl file"
            + did_you_mean(responses, rows[0])
        )
    chosen: list[Any] = []
    with path.open("rb") as file:  # a JSON string may hold any other line separator than \n
        for number, line in enumerate(file, start=1):
            if len(chosen) == len(rows):
                break
            if not line.strip():
                continue
            try:
                entry = json.loads(line)  # of bytes: a byte order mark is none of its text
                chosen.append(entry["response"] if isinstance(entry, dict) else entry)
            except (ValueError, KeyError, RecursionError) as error:
                why = f"it has no {error}" if isinstance(error, KeyError) else f"it is not JSON ({error})"
                raise CtwaError(
                    f"{path}, line {number}: {why}; write a JSON string, or an object with 'response', in each line"
                ) from error
    return chosen
