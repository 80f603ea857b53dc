"""What the prompts of a step are told does not depend on what the process has done before."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig

from ctwa.engine.sampling import Sampler, note_overlong, told_of
from ctwa.engine.settings import read_settings
from ctwa.objectives.completion import Moment
from ctwa.objectives.evaluator import Failure

ON = {"ctwa.conditioning.concentration": 1.0, "ctwa.method": {"type": "linear"}}


def test_a_resumed_run_draws_the_weights_that_the_undisturbed_one_draws(
    changed: Callable[[dict[str, Any]], DictConfig],
) -> None:
    """With further prompts of a step among them, as dynamic sampling asks for; and with another seed others."""

    def sampler(seed: int = 0) -> Sampler:
        config = changed(ON | {"ctwa.seed": seed})
        prompts = [[{"role": "user", "content": f"{number} + 1"}] for number in range(4)]
        columns = {"raw_prompt": np.fromiter(prompts, dtype=object, count=4)}
        session = {
            "config": config,
            "curriculum": None,
            "end_tokens": set,
            "next_prompts": lambda: [columns],
            "complete": lambda chunks, *_, **__: ([each["raw_prompt"].tolist() for each in chunks], {}),
        }
        evaluator = SimpleNamespace(begin=lambda _: None)
        parts = cast("tuple[Any, Any]", (SimpleNamespace(**session), evaluator))
        return Sampler(parts[0], read_settings(config), parts[1], max_missing=0.0)

    def told(sampler: Sampler, step: int) -> list[Any]:
        first, _ = sampler.next_rows(step, Moment())
        further, _ = sampler.more_rows(step, Moment())
        return [*first, *further]

    undisturbed, states = sampler(), []
    steps = []
    for step in range(1, 5):
        steps.append(told(undisturbed, step))
        states.append(undisturbed.state_dict())
    resumed = sampler()
    resumed.load_state_dict(states[1])

    assert [told(resumed, step) for step in (3, 4)] == steps[2:]
    parts = [str(part) for step in steps for part in step]  # of each step its first prompts, and further ones
    assert len(set(parts)) == len(parts) == 8
    assert told(sampler(seed=1), 1) != steps[0]


def test_rows_that_are_too_long_for_the_engine_are_told(changed: Callable[[dict[str, Any]], DictConfig]) -> None:
    """Of those that it was to take; nothing where nobody asked it to leave some out."""

    def told(**given: Any) -> list[tuple[str, str]]:
        config = changed({"data.train_max_samples": 50} | {f"data.{key}": value for key, value in given.items()})
        events: list[tuple[str, str]] = []
        note_overlong(
            cast("Any", SimpleNamespace(config=config, train_dataset=range(47), val_dataset=range(30))),
            cast("Any", SimpleNamespace(train=part("train_files", 60), validation=part("val_files", 30))),
            cast("Any", SimpleNamespace(event=lambda *event: events.append(event))),
        )
        return events

    def part(key: str, num_rows: int) -> SimpleNamespace:
        return SimpleNamespace(key=key, num_rows=num_rows)

    own = {"path": "pkg://ctwa.engine.verl.run_rows", "name": "RunRows"}
    [(kind, text)] = told(filter_overlong_prompts=True, custom_cls=own)
    assert (kind, text[:62]) == ("skipped", "data.train_files: 3 of 50 rows are left out, whose prompts are")
    assert told(filter_overlong_prompts=False, custom_cls=own) == []
    assert told(filter_overlong_prompts=True) == []


def test_of_each_objective_the_first_failure_of_a_batch_and_their_number() -> None:
    failures = [
        Failure("judge", 3, "exception", "RuntimeError: 401 ***"),
        Failure("judge", 5, "timeout", "it took more than 10 s"),
        Failure("short", 4, "not_finite", "nan"),
    ]

    assert told_of(failures) == [
        "objective 'judge' could not score 2 completions; first row 3: exception: RuntimeError: 401 ***",
        "objective 'short' could not score 1 completions; first row 4: not_finite: nan",
    ]
    assert told_of([]) == []
