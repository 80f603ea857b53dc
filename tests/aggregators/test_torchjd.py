"""TorchJD's weightings on our Gram matrix: what goes in, what is refused; the numbers are TorchJD's own."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation as library
from pydantic import ValidationError

from ctwa.aggregators.torchjd import UNFIT, TorchJdConfig
from ctwa.errors import CtwaError

FIT = TorchJdConfig.model_fields["weighting"].annotation.__args__


def test_every_weighting_of_the_library_is_taken_or_refused_by_name():
    names = {name.removesuffix("Weighting") for name in library.__all__}
    assert names - {"", "Aggregator", "GramianWeightedAggregator", "WeightedAggregator"} == {*FIT, *UNFIT}


@pytest.mark.parametrize("name", sorted(UNFIT))
def test_what_is_no_function_of_the_gram_matrix_alone_is_refused(name):
    with pytest.raises(ValidationError, match=rf"TorchJD's {name} (keeps|draws|looks)"):
        TorchJdConfig(weighting=name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weighting": "FairGrad"}, "options.alpha is missing: TorchJD's FairGrad has no default"),
        ({"weighting": "MGDA", "options": {"epsilom": 1}}, "options.epsilom is no option .*; did you mean 'epsilon'?"),
        ({"weighting": "MGDA", "options": {"epsilon": -1}}, r"refuses \{'epsilon': -1\} \(epsilon must be positive"),
        (
            {"weighting": "UPGrad", "options": {"pref_vector": 1}},
            "options.pref_vector is no option of TorchJD's UPGrad",
        ),
        ({"weighting": "Krum", "options": {"n_byzantine": 1}}, "should have at least 4 rows"),
    ],
)
def test_an_option_that_does_not_go_is_refused_at_once(make, options, sentence):
    with pytest.raises(CtwaError, match=sentence):
        make("torchjd", 3, **options)


@pytest.mark.parametrize("num", [2, 3])
def test_it_agrees_with_ours_where_the_definitions_do(make, random_gradients, num):
    """MGDA up to the accuracy of its iterations; FairGrad at alpha 1 is the bargaining solution, at another length."""
    for seed in range(3):
        gradients_MD = random_gradients(seed, num, common=1)
        gram_MM = gradients_MD @ gradients_MD.T
        theirs_M = make("torchjd", num, weighting="MGDA", options={"epsilon": 1e-6, "max_iters": 2000}).solve(gram_MM)
        torch.testing.assert_close(theirs_M.weights_M, make("mgda", num).solve(gram_MM).weights_M, rtol=0, atol=1e-2)
        theirs_M = make("torchjd", num, weighting="FairGrad", options={"alpha": 1.0}).solve(gram_MM).weights_M
        ours = make("nash_mtl", num).solve(gram_MM)
        assert ours.metrics["nash_mtl/agreement"]
        torch.testing.assert_close(theirs_M / theirs_M.sum(), ours.weights_M, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"weighting": "AlignedMTL"},
        {"weighting": "AlignedMTL", "options": {"scale_mode": "rmse"}},
        {"weighting": "FairGrad", "options": {"alpha": 1.0}},
        {"weighting": "FairGrad", "options": {"alpha": 2.0}},
        {"weighting": "IMTLG"},
        {"weighting": "Krum", "options": {"n_byzantine": 0}},
        {"weighting": "MGDA"},
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1e-4, 0.99, 1.01, 1e4])
def test_the_numbers_are_the_librarys_at_every_scale(make, random_gradients, options, scale):
    """0.99 and 1.01 are on two sides of a power of two, of which weights that depend on the scale must not depend."""
    gradients_MD = random_gradients(2, 4)
    gram_MM = scale * gradients_MD @ gradients_MD.T / (gradients_MD @ gradients_MD.T).diagonal().max()
    gram_MM = (gram_MM + gram_MM.T) / 2
    weigh = getattr(library, f"{options['weighting']}Weighting")(**options.get("options", {}))
    weights_M = make("torchjd", 4, **options).solve(gram_MM).weights_M
    torch.testing.assert_close(weights_M, weigh(gram_MM), rtol=1e-9, atol=1e-12)


def test_the_preference_goes_in_where_it_is_asked_for(make, random_gradients):
    gradients_MD = random_gradients(0, 3)
    gram_MM, preference = gradients_MD @ gradients_MD.T, [3.0, 2.0, 5.0]
    aligned = make("torchjd", preference, weighting="AlignedMTL")
    expected_M = library.AlignedMTLWeighting(torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64))(gram_MM)
    assert aligned.goes_by_weights
    torch.testing.assert_close(aligned.solve(gram_MM).weights_M, expected_M, rtol=1e-6, atol=0)
    assert not make("torchjd", preference, weighting="IMTLG").goes_by_weights


def test_an_objective_without_a_gradient_or_a_weight_is_left_out(make):
    gram_MM = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    weights_M = make("torchjd", [1.0, 1.0, 1.0, 0.0], weighting="MGDA").solve(gram_MM).weights_M
    torch.testing.assert_close(weights_M, torch.tensor([0.5, 0, 0.5, 0], dtype=torch.float64))
    assert make("torchjd", 4, weighting="Krum", options={"n_byzantine": 0}).solve(gram_MM).weights_M[1] == 1
