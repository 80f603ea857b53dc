"""What the prompts of a step are told does not depend on what the process has done before."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig

from ctwa.engine.sampling import Sampler, told_of
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
