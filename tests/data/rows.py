"""Rows of every form, and how the tests read them."""

from __future__ import annotations

from typing import Any

from ctwa.data import reading
from ctwa.data.files import open_rows
from ctwa.data.reading import read_rows, refuse_bad
from ctwa.data.settings import RowSettings

Rows = list[dict[str, Any]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def in_parts(message: dict[str, str]) -> dict[str, Any]:
    """A message whose content is its characters, as texts of their own."""
    return {**message, "content": [{"type": "text", "text": each} for each in message["content"]]}


SYSTEM = {"role": "system", "content": "S"}
FORMS: dict[str, tuple[Rows, list[tuple[list[dict[str, str]], Any]]]] = {
    "verl": (
        [{"prompt": [user(f"{n}?")], "reward_model": {"ground_truth": f"{n}"}} for n in range(3)],
        [([user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "gsm8k": (
        [{"question": f"{n}?", "answer": f"It is {n},\nor so.\n#### {n},000"} for n in range(1, 4)],
        [([user(f"{n}?")], f"{n}000") for n in range(1, 4)],
    ),
    "math": (
        [{"problem": f"{n}?", "solution": rf"So $\boxed{{\frac{{{n}}}{{2}}}}$.", "level": n} for n in range(3)],
        [([user(f"{n}?")], rf"\frac{{{n}}}{{2}}") for n in range(3)],
    ),
    "math-500": (
        [{"problem": f"{n}?", "solution": rf"So \boxed{{{n}}}.", "answer": f"{n}", "unique_id": "a"} for n in range(3)],
        [([user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "trl text": (
        [{"prompt": f"{n}?", "ground_truth": f"{n}"} for n in range(3)],
        [([user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "trl messages": (
        [{"prompt": [{"role": "system", "content": "S"}, user(f"{n}?")], "solution": f"{n}"} for n in range(3)],
        [([{"role": "system", "content": "S"}, user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "openai": (
        [{"messages": [user("Hi"), assistant("Hello"), user(f"{n}?"), assistant(f"{n}!")]} for n in range(3)],
        [([user("Hi"), assistant("Hello"), user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "sharegpt": (
        [
            {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"{n}!"}], "system": "S"}
            for n in range(3)
        ],
        [([{"role": "system", "content": "S"}, user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "alpaca": (
        [{"instruction": f"{n}?", "input": "as a word" * (n % 2), "output": f"{n}!"} for n in range(3)],
        [([user(f"{n}?" + "\n\nas a word" * (n % 2))], f"{n}!") for n in range(3)],
    ),
    "dolly": (
        [{"instruction": f"{n}?", "context": "Think.", "response": f"{n}!", "category": "qa"} for n in range(3)],
        [([user(f"{n}?\n\nThink.")], f"{n}!") for n in range(3)],
    ),
    "alpaca with a context": (
        [{"instruction": f"{n}?", "input": "", "context": "Think.", "output": f"{n}!"} for n in range(3)],
        [([user(f"{n}?\n\nThink.")], f"{n}!") for n in range(3)],
    ),
    "a system message beside messages": (
        [{"system": "S", "messages": [user(f"{n}?"), assistant(f"{n}!")]} for n in range(3)],
        [([SYSTEM, user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "a system message beside an instruction": (
        [{"system": "S", "instruction": f"{n}?", "history": [], "input": "7", "output": f"{n}!"} for n in range(3)],
        [([SYSTEM, user(f"{n}?\n\n7")], f"{n}!") for n in range(3)],
    ),
    "a system message beside a prompt": (
        [{"system": "S" * (n % 2), "prompt": [user(f"{n}?")]} for n in range(3)],
        [([SYSTEM] * (n % 2) + [user(f"{n}?")], None) for n in range(3)],
    ),
    "a system message twice": (
        [{"system": "S", "messages": [SYSTEM, user(f"{n}?"), assistant(f"{n}!")]} for n in range(3)],
        [([SYSTEM, user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "contents in parts": (
        [{"messages": [in_parts(user(f"{n}?")), in_parts(assistant(f"{n}!"))]} for n in range(3)],
        [([user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "a reward model without a ground truth": (
        [{"prompt": f"{n}?", "answer": f"{n}!", "reward_model": {"style": "rule"}} for n in range(3)],
        [([user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "messages and a reward model without a ground truth": (
        [{"prompt": [user(f"{n}?")], "answer": f"{n}!", "reward_model": {"style": "rule"}} for n in range(3)],
        [([user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "an empty answer beside a solution": (
        [{"question": f"{n}?", "answer": "", "solution": f"{n}!"} for n in range(3)],
        [([user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "no answer": ([{"prompt": f"{n}?"} for n in range(3)], [([user(f"{n}?")], None) for n in range(3)]),
}


def spelled(name: str) -> str:
    return f"data.{name}"


def read(source: str, **settings: Any) -> reading.Rows:
    rows = read_rows([open_rows(source)], RowSettings(**settings), spelled)
    refuse_bad(rows.bad, len(rows) + len(rows.bad), spelled)
    return rows
