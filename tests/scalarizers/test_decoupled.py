"""What holds for every method that combines standardised advantages."""

import pytest
import torch

from ctwa.scalarizers import build_scalarizer
from ctwa.scalarizers.decoupled import has_signal
from ctwa.scalarizers.dvao import DvaoConfig
from ctwa.scalarizers.gd2po import Gd2poConfig
from ctwa.scalarizers.gdpo import GdpoConfig
from ctwa.scalarizers.rvpo import RvpoConfig
from ctwa.scalarizers.saw import SawConfig

CONFIGS = [
    GdpoConfig(),
    Gd2poConfig(),
    RvpoConfig(),
    RvpoConfig(batch_normalize=False),
    DvaoConfig(),
    DvaoConfig(batch_normalize=True),
    SawConfig(apply_to="advantages"),
]


@pytest.mark.parametrize("unit", [2.0**-1000, 2.0**-20, 2.0**130, 2.0**1000])
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_the_unit_of_the_weights_changes_no_bit(make_batch, config, unit):
    """In float32, which the estimator of the engine has, 2^130 is infinite."""
    weights, batch = {"a": 0.5, "b": 0.3, "c": 0.2}, make_batch(["a", "b", "c"])

    def estimate(scores_N, *rows):
        return batch.estimate()(scores_N, *rows).float()

    estimate.scale_invariant = True
    one_NT, other_NT = (
        build_scalarizer(config, {name: each * weight for name, weight in weights.items()}, scale_invariant=True)
        .advantages(batch.rollout, estimate)
        .clone()
        for each in (1.0, unit)
    )
    assert one_NT.isfinite().all()
    assert one_NT.any()
    assert torch.equal(one_NT, other_NT)


def test_a_prompt_has_a_signal_where_some_objective_tells_its_completions_apart():
    each_MNT = torch.zeros(2, 6, 3)
    each_MNT[1, 0, 2] = -1.0
    each_MNT[0, 3] = 1e-9  # rounding, beside 1
    assert has_signal(each_MNT, torch.tensor([7, 3, 7, 3, 5, 5])).tolist() == [True, False] * 2 + [False] * 2
    assert not has_signal(torch.zeros(2, 6, 3), torch.arange(6)).any()
