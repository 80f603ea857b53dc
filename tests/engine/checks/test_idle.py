"""A setting that does nothing is refused; one that a longer run would reach is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig
from pydantic import TypeAdapter

from ctwa.engine.checks.config import check_config
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError
from ctwa.scalarizers import METHODS, MethodConfig

Changed = Callable[[dict[str, Any]], DictConfig]

CROSS = {"ctwa.gradients.gram": "cross_fitted"}
GATES = {"accuracy": 1.0, "clarity": 1.0, "conciseness": 1.0}
KL = {"kl": {"reward_fn": "ctwa.objectives.log_probs:kl", "weight": 1.0}}
HELD = {"type": "lagrangian", "objective": "accuracy", "targets": {"clarity": 0.5, "conciseness": 0.5}}
ENTROPY = {"kl": {"reward_fn": "ctwa.objectives.log_probs:entropy", "weight": 1.0}}


def method(**options: Any) -> dict[str, Any]:
    return {"ctwa.method": options}


def lagrangian(objectives: dict[str, Any], target: float) -> dict[str, Any]:
    targets = {"kl": target, "clarity": 0.5, "conciseness": 0.5}
    return {
        **{f"ctwa.objectives.{name}": each for name, each in objectives.items()},
        **method(type="lagrangian", objective="accuracy", targets=targets),
    }


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"ctwa.gradients.half_life": 5}, "half_life=5.0 does nothing with gram=plain"),
        (method(type="pcgrad", seed=3), "seed=3 does nothing with order=average"),
        (method(type="cagrad", c=0, rescale="published-code"), "rescale=published-code does nothing with c=0"),
        (method(type="rvpo", beta_start=1), "beta_start=1.0 does nothing with anneal_steps=0"),
        (method(type="rvpo", beta_start=2, anneal_steps=4), "anneal_steps=4 does nothing with beta_start=beta"),
        (method(type="probe", signal="slope", source="held_out"), "source=held_out does nothing with signal=slope"),
        (method(type="probe", gate=None, gate_tau=0.5), "gate_tau=0.5 does nothing with no gate"),
        (method(type="gradnorm", eta=0, alpha=3), "alpha=3.0 does nothing with eta=0"),
        (method(type="gradnorm", eta=0, raw=True), "raw=true does nothing with eta=0"),
        (method(**HELD, eta=0, cap=3), "cap=3.0 does nothing with eta=0"),
        (
            method(**HELD, at_least={"clarity": 0.5, "conciseness": 0.5}, one_sided=True),
            "one_sided=true does nothing with at_least for every target",
        ),
        *(({"ctwa.objectives.clarity.weight": 0} | method(type=name, **{key: {"clarity": value}}),
           rf"the method's {key} names \['clarity'\], which have the weight 0 and train nothing: leave them out")
          for name, key, value in (
              ("guard", "bounds", [0, 2]),
              ("saw", "lowest", -3),
              ("compromise", "largest", 2),
              ("hypervolume", "scales", 2),
              ("tchebycheff", "reference_point", 1),
          )),
        (method(type="ctwa", measure="correlation", ddof=1), "ddof=1 does nothing with measure=correlation"),
        (method(type="ctwa", tau=1, ema_init="zero"), "ema_init=zero does nothing with tau=1"),
        (
            method(type="schedule", interpolation="piecewise", points=[{"step": 0, "weights": GATES}]),
            "interpolation=piecewise does nothing with one point",
        ),
        (method(type="common_descent", errors=2), r"method\.errors=2.0 does nothing with ctwa\.gradients\.gram=plain"),
        ({"ctwa.dynamic_sampling.otherwise": "refill"}, "otherwise=refill does nothing with keep=every"),
        ({"ctwa.dynamic_sampling": {"keep": "any", "max_rounds": 5}}, "max_rounds=5 does nothing with otherwise=drop"),
        ({"ctwa.objectives.clarity.split": "val", "ctwa.objectives.clarity.every": 2}, "every=2 does .* split=val"),
        (
            {"ctwa.objectives.clarity.on_failure": "stop", "ctwa.objectives.clarity.max_unscored": 0.5},
            "max_unscored=0.5 does nothing with on_failure=stop",
        ),
        *((method(type="linear") | {f"ctwa.gradients.{key}": value}, rf"{key}=.* method=linear and ctwa\.diag")
          for key, value in {"gram": "cross_fitted", "metric": "optimizer", "passes": "sequential"}.items()),
        (
            method(type="linear") | {"ctwa.diagnostics.gradients_every": 2, "ctwa.gradients.refresh_every": 2},
            "refresh_every=2 does nothing with method=linear",
        ),
        ({"ctwa.diagnostics.held_out_prompts": 8}, "held_out_prompts=8 does nothing with a probe that holds none out"),
        (
            {"ctwa.diagnostics.covariance": "post_update", "actor_rollout_ref.actor.policy_loss.loss_mode": "kl_cov"}
            | method(type="linear"),
            "covariance=post_update does nothing with policy_loss.loss_mode=kl_cov",
        ),
        (
            {"ctwa.diagnostics.covariance": "post_update"} | method(type="ctwa", statistic="in_update"),
            "covariance=post_update does nothing with a method or a probe",
        ),
        (method(type="hypervolume", scores="validation") | {"trainer.test_freq": -1}, "goes by the validations of a"),
        (lagrangian(KL, 0.05), r"target 0\.05 for 'kl', which is minus the KL, .*: write -0\.05"),
        (lagrangian(ENTROPY, -0.5), "the entropy, which is never below 0: write 0.5"),
    ],
)  # fmt: skip
def test_what_does_nothing_is_refused(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_what_does_something_is_not(changed: Changed) -> None:
    for values in (
        {"ctwa.gradients.half_life": 5, "ctwa.diagnostics.gradients_every": 2} | CROSS | method(type="linear"),
        method(type="common_descent", errors=2) | CROSS,
        {"ctwa.diagnostics.held_out_prompts": 8, "ctwa.diagnostics.probe": "held_out"},
        lagrangian(KL, -0.05),
        method(**HELD, at_least={"clarity": 0.5}, one_sided=True),
    ):
        check_config(changed(values))


CONFIGS = {name: method.info.config for name, method in METHODS.items()}
WITHOUT_NEEDS = [name for name, each in CONFIGS.items() if not any(f.is_required() for f in each.model_fields.values())]


@pytest.mark.parametrize("name", WITHOUT_NEEDS)
def test_no_default_does_nothing(name: str) -> None:
    """Options with their defaults written out are the options."""
    config = CONFIGS[name]
    defaults = {key: field.get_default(call_default_factory=True) for key, field in config.model_fields.items()}
    assert TypeAdapter(MethodConfig).validate_python(defaults) == config()


def test_a_plan_shows_options_that_are_no_defaults_and_what_a_run_is_too_short_for(changed: Changed) -> None:
    values = {"trainer.total_training_steps": 3} | method(type="rvpo", beta=3, anneal_steps=5)
    method_line, note = lines(changed(values), "method", "note")
    assert method_line.startswith("  method       rvpo (beta=3.0, anneal_steps=5), log-probs")
    assert note == "  note         ctwa.method.anneal_steps=5: beta does not reach 3 in 3 steps"
    values = {"trainer.total_training_steps": 4, "ctwa.gradients.metric": "optimizer"} | method(type="mgda")
    method_line, objectives, note = lines(changed(values), "method", "objectives", "note")
    assert "mgda, log-probs" in method_line
    assert objectives.endswith("; their own weights play no part, except that 0 leaves one out")
    assert "metric=optimizer: the run has 8 mini-batches" in note
    points = [{"step": step, "weights": GATES} for step in (0, 3, 9)]
    values = {"trainer.total_training_steps": 4} | method(type="schedule", points=points)
    assert [line.partition("points: ")[2] for line in lines(changed(values), "note")] == [
        "the weights of step 9 are never reached in 4 steps"
    ]
    assert not lines(changed(values | {"trainer.total_training_steps": 10}), "note")


def lines(config: DictConfig, *labels: str) -> list[str]:
    return [line for line in TrainJob(config).plan().splitlines() if line.split(maxsplit=1)[0] in labels]
