"""What the tests of `check-reward` share."""

from collections.abc import Callable
from io import StringIO
from typing import Any

from rich.console import Console

from ctwa.objectives.check import render
from ctwa.objectives.check_command import main

RewardFile = Callable[..., str]

REWARDS = """
    def right(response): return float("right" in response)
    def short(response): return float(len(response) < 6)
    def constant(response): return 1.0
    def sometimes(response, extra_info): return None if extra_info["index"] else len(response)
"""


def rows(num_rows: int, **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {i} + 1?"}],
            "data_source": "sums",
            "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
            "extra_info": {"index": i},
            "level": i,
            **{name: values[i] for name, values in columns.items()},
        }
        for i in range(num_rows)
    ]


def shown(result: Any) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(render(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def run_main(*arguments: Any, **options: Any) -> tuple[int, str]:
    console = Console(file=StringIO(), width=200)
    spec, *rest = arguments
    status = main([spec] if isinstance(spec, str) else spec, *rest, console=console, **options)
    return status, console.file.getvalue()  # type: ignore[attr-defined]
