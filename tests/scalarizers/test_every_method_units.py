"""Which of the registered methods go by the rewards' zero, their units or their means."""

import pytest
import torch

from ctwa.covariance.probe import Progress
from ctwa.scalarizers import METHODS
from tests.scalarizers.every_method import EIGHT, build, columns_of, combine, with_rewards

TELLING = {"gradnorm": {"eta": 0.3}, "probe": {"gate": 0.3, "warmup": 0}, "hypervolume": {"apply_to": "loss"}}
"""Options with which a few steps show that a method goes by its losses, its gate or its front."""
OTHER_OPTIONS = (
    ("ctwa", {"gate_targets": {"objective-1": 0.3}, "eta": 0.5}),
    ("gradnorm", {"alpha": 0.0, "eta": 0.3}),
    ("hypervolume", {"scores": "validation", "apply_to": "loss"}),
    ("lagrangian", {"at_least": {"objective-1": 0.5}, "targets": {"objective-1": 0.9, "objective-2": 2}}),
    ("probe", {"gate": None, "warmup": 0}),
    ("probe", {"gate": None, "warmup": 0, "signal": "slope"}),
    ("tchebycheff", {"reference": "batch"}),
    ("tchebycheff", {"reference": "fixed", "reference_point": dict.fromkeys(EIGHT[:3], 1.0)}),
    ("smooth_tchebycheff", {"reference": "batch"}),
)


@pytest.mark.parametrize(
    ("method", "options"),
    [*((method, TELLING.get(method, {})) for method in sorted(METHODS)), *OTHER_OPTIONS],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_the_methods_that_constants_added_to_a_batch_change_are_those_that_say_so(make_batch, method, options):
    """Standardised rewards have another mean subtracted in every batch, and ``in_units`` is who must not have them."""
    names, runs = EIGHT[:3], []
    for shifts in ((0.0,) * 6, (0.0, 0.25, 0.5, 0.25, 0.0, 0.5)):
        scalarizer = build(method, names, **options)
        runs.append([])
        for step, shift in enumerate(shifts):
            batch = make_batch(names, seed=step)
            columns = {name: column / 2 for name, column in columns_of(batch).items()}
            added = zip(columns.items(), (1.0, 0.5, 0.0), strict=True)
            shifted = with_rewards(batch, {name: column + share * shift for (name, column), share in added})
            advantages_NT = scalarizer.advantages(shifted.rollout, shifted.estimate())
            if scalarizer.aggregator is not None:
                each_MNT = scalarizer.objective_advantages(shifted.rollout, shifted.estimate())
                advantages_NT = combine(scalarizer, shifted, each_MNT, {})
            scalarizer.observe_update(shifted.update(advantages_NT))
            gain_M = torch.tensor([0.1, 0.0, 0.02], dtype=torch.float64)
            scalarizer.observe_probe(Progress(tuple(names), gain_M, torch.full_like(gain_M, 0.01), 8))
            scalarizer.observe_validation(step, {name: float(column.mean()) for name, column in columns.items()})
            runs[-1].append(advantages_NT)

    moves = any((one_NT - other_NT).abs().max() > 1e-6 for one_NT, other_NT in zip(*runs, strict=True))
    says = scalarizer.has_zero or bool(scalarizer.in_units) or bool(scalarizer.followed_means)
    assert moves == (says and options.get("scores") != "validation")


@pytest.mark.parametrize("method", ["compromise", "gradnorm", "guard", "hypervolume", "lagrangian", "probe"])
def test_what_follows_a_mean_names_the_objectives(method):
    """Of ranks it would never move."""
    assert build(method, EIGHT[:3]).followed_means == tuple(EIGHT[method == "lagrangian" : 3])
