"""Rewards that are standardised or ranked, for methods that go by their zero, their unit or their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig

from ctwa.engine.checks.config import check_train_settings
from ctwa.errors import CtwaError

Changed = Callable[[dict[str, Any]], DictConfig]

NAMES = ("accuracy", "clarity", "conciseness")
TARGETS = {f"ctwa.objectives.{name}.target": 0.1 for name in NAMES}
TARGET = {"objective": "accuracy", "targets": {"clarity": 0.9, "conciseness": 0.9}}


def method(name: str, **options: Any) -> dict[str, Any]:
    return {"ctwa.method": {"type": name, **options}}


def standardised(of: str = "batch") -> dict[str, Any]:
    return {"ctwa.rewards.standardise": of}


def ranked(*names: str, **others: Any) -> dict[str, Any]:
    settings = {"transform": "rank", **others}
    return {f"ctwa.objectives.{name}.{key}": value for name in names for key, value in settings.items()}


@pytest.mark.parametrize("of", ["batch", "running"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (method("product"), r"no reward its zero.*: write none.* ctwa\.objectives\.NAME\.transform=rank; or another m"),
        (method("saw"), r"no reward its zero.*\.transform=rank; or"),
        (method("guard"), r"no reward its zero.*\.transform=sigmoid or ctwa\.method\.bounds; or another method"),
        (method("compromise"), r"no reward its zero.*\.transform=sigmoid or ctwa\.method\.largest; or"),
        (method("lagrangian", **TARGET), "lagrangian has its targets in the units of the rewards, .*: write none$"),
        (method("lagrangian", **TARGET, at_least={"clarity": 0.5, "conciseness": 0.5}), "has its targets in the units"),
        (method("cgpo", constraints={"accuracy": 1}), "cgpo has its constraints in the units"),
        (method("gradnorm"), "gradnorm has its losses in the units"),
        (method("hypervolume"), r"has its front in the units .*: write none or ctwa\.method\.scores=validation"),
        (method("hypervolume", scores="batch"), "has its front in the units"),
        (method("probe"), r"has its gate in the units .*: write none or ctwa\.method\.gate=null"),
        (method("probe", signal="slope"), "has its gate in the units .*: write none$"),
        (method("ctwa", gate_targets={"accuracy": 0.9}) | TARGETS, "ctwa has its gate_targets in the units"),
        (method("tchebycheff"), r"has its reference point in .*: write none or ctwa\.method\.reference=batch"),
        (
            method("smooth_tchebycheff", reference="fixed", reference_point=dict.fromkeys(NAMES, 1.0)),
            "smooth_tchebycheff has its reference point in the units",
        ),
    ],
)  # fmt: skip
def test_what_is_in_the_units_of_the_rewards_is_refused_standardised_ones(
    changed: Changed, values: dict[str, Any], sentence: str, of: str
) -> None:
    with pytest.raises(CtwaError, match=rf"standardise={of}\b.*{sentence}"):
        check_train_settings(changed(values | standardised(of)))


def test_a_mean_that_is_always_0_has_no_slope(changed: Changed) -> None:
    slope = method("probe", signal="slope", gate=None)
    with pytest.raises(CtwaError, match=r"standardise=batch: the method probe goes by the mean .*: write none or runn"):
        check_train_settings(changed(slope | standardised()))
    check_train_settings(changed(slope | standardised("running")))


@pytest.mark.parametrize(
    "values",
    [
        *(method(name) for name in ("linear", "gdpo", "pama", "rdpo", "dvao", "mgda", "dynamic")),
        method("ctwa") | TARGETS,
        method("gradnorm", alpha=0),
        method("hypervolume", scores="validation"),
        method("probe", gate=None),
        method("tchebycheff", reference="batch"),
    ],
    ids=lambda values: str(values["ctwa.method"]),
)
def test_what_looks_at_one_batch_takes_standardised_rewards(changed: Changed, values: dict[str, Any]) -> None:
    check_train_settings(changed(values | standardised()))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (method("guard"), r"guard goes by .* 'clarity' are in the mean, of which .*, with ctwa\.method\.bounds$"),
        (method("compromise"), r"compromise goes by .*: their mean is \.5\. .*, with ctwa\.method\.largest$"),
        (method("lagrangian", **TARGET), r"in the mean \(its targets\), .* Write sigmoid, or no transform$"),
        (method("gradnorm"), r"\(its losses\)"),
        (method("hypervolume", scores="batch"), r"\(its front\)"),
        (method("hypervolume", scores="validation"), "hypervolume goes by how large the rewards of 'clarity' are"),
        (method("probe"), r"\(its gate\)"),
        (method("probe", signal="slope", gate=None), "probe goes by how large"),
        (method("ctwa", gate_targets={"clarity": 0.9}) | TARGETS, r"\(its gate_targets\)"),
    ],
)
def test_what_follows_a_mean_is_refused_ranks(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=rf"ctwa\.objectives\.clarity\.transform=rank: the method .*{sentence}"):
        check_train_settings(changed(values | ranked("clarity")))


@pytest.mark.parametrize(
    "values",
    [
        *(method(name) | ranked(*NAMES) for name in ("linear", "product", "saw", "tchebycheff", "mgda")),
        method("cgpo", constraints={"clarity": 0.5}) | ranked("clarity"),  # the better half
        method("lagrangian", **TARGET) | ranked("accuracy"),
        method("probe", gate={"accuracy": 0.9}) | ranked("clarity"),
        method("ctwa", gate_targets={"accuracy": 0.9}) | TARGETS | ranked("clarity"),
        method("compromise", alpha=0) | ranked("clarity"),
        method("guard") | ranked("clarity", gate={"by": "accuracy", "at_least": 1}),  # a mean of how often it is open
        method("guard") | ranked("clarity", weight=0.0),
    ],
    ids=lambda values: str(values),
)
def test_what_compares_completions_takes_ranks(changed: Changed, values: dict[str, Any]) -> None:
    check_train_settings(changed(values))
