"""Our node of the configuration, and what it reads of verl's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.policy_loss import read_policy_loss
from ctwa.engine.settings import DiagnosticSettings, RewardSettings, RolloutSettings, is_scale_invariant, read_settings
from ctwa.errors import CtwaError
from ctwa.gradients.settings import GradientSettings
from ctwa.policy_loss import Vanilla
from ctwa.run.alarms import AlarmLimits
from ctwa.scalarizers.base import Requirements


def actor(**values: Any) -> DictConfig:
    defaults = {"policy_loss": {"loss_mode": "vanilla"}, "clip_ratio": 0.2, "clip_ratio_low": 0.2}
    return OmegaConf.create({**defaults, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, **values})


class TestPolicyLoss:
    def test_its_range_is_the_one_of_the_loss(self) -> None:
        loss = read_policy_loss(actor(clip_ratio_low=0.1, clip_ratio_high=0.28, clip_ratio_c=10.0))

        assert loss == Vanilla(0.1, 0.28, 10.0)

    def test_the_common_ratio_stands_in_for_a_side_that_is_not_given(self) -> None:
        assert read_policy_loss(actor(clip_ratio=0.3, clip_ratio_low=None, clip_ratio_high=0.4)) == Vanilla(0.3, 0.4, 3)

    def test_clipping_off_is_no_clipping_at_all(self) -> None:
        off = actor(clip_ratio=1e9, clip_ratio_low=1e9, clip_ratio_high=1e9, clip_ratio_c=1e9)

        assert read_policy_loss(off) == Vanilla()

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"policy_loss": {"loss_mode": "gsop"}}, "'gsop': write one of cispo, .*; did you mean 'gspo'"),
            ({"policy_loss": {"loss_mode": "dro"}}, "loss_mode=dro needs a penalty: write .*dro_beta"),
            ({"policy_loss": {"loss_mode": "sapo"}}, "sapo takes the mean .* choose policy_loss=sapo, which does"),
            ({"loss_agg_mode": "seq-mean-token-sum-norm"}, "with null by the longest response of each micro-batch"),
        ],
    )
    def test_what_does_not_go_with_a_loss_is_refused(self, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(CtwaError, match=sentence):
            read_policy_loss(actor(**values))


ESTIMATORS = [
    ("grpo", True),
    ("grpo", False),
    ("reinforce_plus_plus", True),
    ("reinforce_plus_plus_baseline", True),
    ("rloo", True),
    ("opo", True),
]


@pytest.mark.parametrize(("estimator", "by_std"), ESTIMATORS, ids=lambda value: str(value))
def test_scale_invariance_is_what_verls_estimator_does(
    estimator: str, by_std: bool, testbed_config: DictConfig
) -> None:
    """The table is compared with verl itself: A(7 s) against A(s) on random scores of whole groups."""
    from ctwa.engine.verl.estimate import VerlEstimate

    algorithm = OmegaConf.merge(
        testbed_config.algorithm, {"adv_estimator": estimator, "norm_adv_by_std_in_grpo": by_std}
    )
    generator = torch.Generator().manual_seed(0)
    scores_N = torch.rand(24, generator=generator, dtype=torch.float64)
    lengths_N = torch.randint(1, 9, (24,), generator=generator)
    mask_NT = (torch.arange(9) < lengths_N[:, None]).long()
    estimate = VerlEstimate(algorithm, mask_NT, torch.arange(24) // 4)

    same = torch.allclose(estimate(7 * scores_N), estimate(scores_N), rtol=1e-3, atol=1e-4)

    assert estimate.scale_invariant == is_scale_invariant(algorithm) == same


@pytest.mark.parametrize("estimator", ["gae", "gdpo", "remax", "Grpo"])
def test_estimators_that_do_not_see_the_objectives_are_refused(estimator: str) -> None:
    with pytest.raises(CtwaError, match=f"adv_estimator is '{estimator}': write one of grpo, "):
        is_scale_invariant(OmegaConf.create({"adv_estimator": estimator, "norm_adv_by_std_in_grpo": True}))


class TestSettings:
    def test_every_key_of_the_node_is_documented(self, testbed_config: DictConfig) -> None:
        text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
        nested = {
            "rewards": RewardSettings,
            "rollout": RolloutSettings,
            "gradients": GradientSettings,
            "diagnostics": DiagnosticSettings,
        }

        for key in testbed_config.ctwa:
            for name in [f"{key}.{part}" for part in nested[key].model_fields] if key in nested else [key]:
                assert f"| `ctwa.{name}` |" in text

    @pytest.mark.parametrize(
        ("wish", "diagnostics", "source"),
        [
            ("none", "in_update", "in_update"),
            ("none", "none", "none"),
            ("post_update", "in_update", "post_update"),
            ("in_update", "post_update", "in_update"),
        ],
    )
    def test_the_methods_wish_outranks_the_diagnostics(
        self, changed: Any, wish: Any, diagnostics: str, source: str
    ) -> None:
        settings = read_settings(changed({"ctwa.diagnostics.covariance": diagnostics}))

        assert settings.log_probs_source(Requirements(log_probs=wish)) == source

    def test_the_reference_length_is_built_where_one_is_configured(self, changed: Any) -> None:
        assert read_settings(changed({})).build_reference_length() is None
        reference = read_settings(changed({"ctwa.reference_length": {"type": "fixed", "tokens": 40}}))
        built = reference.build_reference_length()

        assert built is not None
        assert built.reference([10, 20], [0, 0]) == [40, 40]

    def test_a_stop_on_what_is_no_alarm_is_refused_with_those_there_are(self, changed: Any) -> None:
        assert read_settings(changed({"ctwa.stop_on": ["drop", "non-finite"]})).stop_on == ["drop", "non-finite"]
        with pytest.raises(CtwaError, match=r"ctwa\.stop_on\.1: 'dorp' is no alarm; write some of drop, negative-cov"):
            read_settings(changed({"ctwa.stop_on": ["drop", "dorp"]}))

    def test_every_limit_of_the_alarms_is_documented_with_its_default(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()

        for name, default in AlarmLimits().model_dump().items():
            assert f"`{name}` ({default})" in text

    def test_limits_of_alarms_are_checked(self, changed: Any) -> None:
        assert read_settings(changed({"ctwa.alarms.drop_steps": 20})).alarms == AlarmLimits(drop_steps=20)
        with pytest.raises(CtwaError, match=r"ctwa\.alarms\.drop: Input should be greater than 0"):
            read_settings(changed({"ctwa.alarms.drop": -1}))

    def test_renormalisation_follows_the_estimator(self, changed: Any) -> None:
        refused = changed({"algorithm.adv_estimator": "rloo", "ctwa.method.renormalize": False})

        with pytest.raises(CtwaError, match="renormalize is off, but larger scores make other advantages"):
            read_settings(refused).build_scalarizer()

    def test_a_method_has_the_objectives_in_alphabetical_order_however_they_are_declared(self, changed: Any) -> None:
        declared = changed({}).ctwa.objectives
        reversed_ = changed({"ctwa.objectives": {name: declared[name] for name in reversed(list(declared))}})
        one, other = (read_settings(config).build_scalarizer() for config in (changed({}), reversed_))

        assert list(reversed_.ctwa.objectives) == ["clarity", "conciseness", "accuracy"]
        assert one.names == other.names == ("accuracy", "clarity", "conciseness")
        assert one.weights == other.weights
        assert one.covariance_targets == other.covariance_targets != {}
