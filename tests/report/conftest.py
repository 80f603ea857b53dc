"""The runs that reports are made of."""

import numpy as np
import pytest

from ctwa.run import SampleWriter
from tests.run.conftest import make_run as make_run
from tests.run.runs import info


def metrics(names, step, rng):
    found = {"time/step": 2.0, "time/gen": 1.5, "time/testing": 0.5, "ctwa/feasibility": 0.4, "clip/fraction": 0.01}
    found |= {"clip/distortion": 0.1, "actor/entropy": 2.0, "actor/grad_norm": 0.5, "response_length/mean": 40.0}
    for index, name in enumerate(names):
        found |= {
            f"objective/{name}/mean": 0.5 + 0.01 * step,
            f"objective/{name}/scored_frac": 0.99 if index else 1.0,
            f"objective/{name}/timeout_frac": 0.01 if index else 0.0,
            f"objective/{name}/error_frac": 0.0,
            f"covariance/{name}": float(rng.normal()),
            f"weight/{name}": 0.5,
            f"clip/bound/{name}": 0.05,
            f"gradient/norm/{name}": 1.0,
            f"probe/gain/{name}": 0.01,
            f"probe/standard_error/{name}": 0.02,
        }
    found[f"gradient/cosine/{names[0]}:{names[-1]}"] = -0.5
    found[f"conflict/cosine/{names[0]}:{names[-1]}"] = -0.9
    if step % 5 == 0:
        found |= {f"val/{name}": 0.5 + 0.02 * step * (-1) ** index for index, name in enumerate(names)}
        found |= {f"val_standard_error/{name}": 0.01 for name in names}
    return found


@pytest.fixture
def make_full_run(make_run):
    """A run with every metric a report shows, 10 steps of it."""

    def make(name, names=("accuracy", "clarity"), **changes):
        rng = np.random.default_rng(0)
        start = {f"val/{each}": 0.5 for each in names}
        steps = {0: start} | {step: metrics(names, step, rng) for step in range(1, 11)}
        run = make_run(name, steps, info(names, num_steps=10, **changes))
        run.config.write_text("lr: 0.1\n")
        with SampleWriter(run.samples) as samples:
            for step in (1, 10):
                rewards = {each: [1.0, None] for each in names}
                samples.write(step, [f"prompt of {step}"] * 2, [f"response <b>of</b> {step}"] * 2, rewards)
        return run.path

    return make


@pytest.fixture
def paths(make_full_run):
    return [
        make_full_run(f"{method}-s{seed}", method=method, seed=seed) for method in ("linear", "ctwa") for seed in (0, 1)
    ]
