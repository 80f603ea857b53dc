"""What ctwa's own settings may not be, and that all that is wrong with them is told at once."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig

from ctwa.engine.checks.config import check_config
from ctwa.engine.checks.model import LORA_ALPHA
from ctwa.errors import CtwaError
from tests.engine.names import Changed


def test_the_testbed_as_it_stands_passes(testbed_config: DictConfig) -> None:
    settings = check_config(testbed_config)

    assert testbed_config.actor_rollout_ref.model.lora_alpha == LORA_ALPHA

    assert list(settings.objectives) == ["accuracy", "conciseness", "clarity"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"ctwa.rewards.max_unscored": 2}, r"ctwa\.rewards\.max_unscored: Input should be less than or equal to 1"),
        (
            {"ctwa.num_sample": 4},
            r"ctwa\.num_sample is no key of the configuration; did you mean 'num_samples'\?",
        ),
        (
            {"ctwa.method.etta": 0.1},
            r"^ctwa\.method\.etta is no key of the configuration; did you mean 'eta'\?",
        ),
        (
            {"ctwa.objectives.accuracy.wieght": 1},
            r"ctwa\.objectives\.accuracy\.wieght is no key of the configuration; did you mean 'weight'\?",
        ),
        (
            {"ctwa.method.type": "mgd"},
            r"ctwa\.method: Input tag 'mgd' .* does not match .*'linear', .*'ctwa'.*; did you mean 'mgda'\?",
        ),
        ({"algorithm.adv_estimator": "gppo"}, r"adv_estimator is 'gppo': .*; did you mean 'grpo'\?"),
        ({"ctwa.method.eta": float("nan")}, r"ctwa\.method\.eta: Input should be a finite number"),
        (
            {"ctwa.objectives.accuracy.weight": float("inf")},
            r"ctwa\.objectives\.accuracy\.weight: Input should be a finite number",
        ),
        (
            {"ctwa.objectives.accuracy.target": float("nan"), "ctwa.method": {"type": "linear"}},
            r"ctwa\.objectives\.accuracy\.target: Input should be a finite number",
        ),
        ({"ctwa.objectives.accuracy.weight": -1}, r"ctwa\.objectives\.accuracy\.weight: .*greater than or equal to 0"),
        (
            {"ctwa.objectives.acuracy.weight": 1},
            r"^ctwa\.objectives\.acuracy\.reward_fn is missing: give it a value; did you mean 'accuracy'\?$",
        ),
        ({"ctwa.method": {}}, r"ctwa\.method: Unable to extract tag"),
        ({"ctwa.stop_on": ["drops"]}, r"ctwa\.stop_on\.0: 'drops' is no alarm; .*; did you mean 'drop'\?$"),
        ({"ctwa.objectives": {}}, r"ctwa\.objectives: .*there is no objective; give at least one"),
        ({"ctwa.objectives.accuracy.reward_fn": "accuracy"}, r"reward function 'accuracy' is not of the form"),
        ({"ctwa.objectives.accuracy.reward_fn": "no/such.py:accuracy"}, r"'no/such\.py:accuracy': there is no file"),
        ({"ctwa.reference_length": {"type": "median"}}, r"ctwa\.reference_length: Input tag 'median' .*'fixed'"),
        (
            {"ctwa.method.targets": {"accuracy": 0.1, "conciseness": 0.1, "clarity": 0.1}},
            r"^ctwa\.method: a covariance target is its objective's and no option of the method: write ctwa",
        ),
        (
            {"ctwa.objectives.clarity.target": None},
            r"target of every objective, and clarity has none: write ctwa\.objectives\.clarity\.target",
        ),
        ({"ctwa.objectives.accuracy.weight": 0}, r"\['accuracy'\] have the weight 0, which CTWA can never raise"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_our_part_of_the_configuration(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_all_mistakes_of_our_part_are_told_at_once(changed: Changed) -> None:
    with pytest.raises(CtwaError) as error:
        check_config(changed({"ctwa.print_every": 0, "ctwa.sed": 1}))

    assert "ctwa.print_every:" in str(error.value)
    assert "ctwa.sed is no key" in str(error.value)
