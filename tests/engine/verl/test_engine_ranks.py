"""The engine itself, without Ray: every gradient method on one rank and on two."""

from __future__ import annotations

import pytest
import torch

from ctwa.aggregators.registry import GRADIENT_METHODS
from tests.engine.verl.engine_ranks import KINDS, run_ranks, save_model


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What one process measured, and what each of two ranks with two micro-batches each did."""
    folder = tmp_path_factory.mktemp("ranks")
    save_model(folder)
    run_ranks("every_method", folder, 1)
    run_ranks("every_method", folder, 2)
    return [torch.load(folder / f"measured-{which}.pt") for which in ("0of1", "0of2", "1of2")]


def test_two_ranks_that_share_their_rows_train_and_weigh_as_one_does(measured: list[dict]) -> None:
    one, *two = [ranks["sequence parallel"] for ranks in measured]
    for step, (expected, first, second) in enumerate(zip(one, *two, strict=True)):
        assert (first["sent"], second["sent"]) == ([0, 1, 2, 3], [])
        assert expected["moved"].abs().max() > 0
        assert first["norm"] == pytest.approx(expected["norm"], rel=1e-5)
        torch.testing.assert_close(first["log_probs"], expected["log_probs"], rtol=1e-5, atol=1e-5)
        assert first["weights"] == second["weights"] == pytest.approx(expected["weights"], rel=1e-4)
        assert (step == 0) == (expected["weights"] != one[1]["weights"])


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_micro_batches_change_no_weight(kind: str, method: str, measured: list[dict]) -> None:
    one, *two = [ranks[kind, method] for ranks in measured]
    assert torch.equal(two[0][1]["weights"], two[1][1]["weights"])
    for expected, found in zip(one, two[0], strict=True):
        norms_M = expected["gram"].diagonal().sqrt()
        assert norms_M.min() > 0
        difference_MM = (found["gram"] - expected["gram"]) / (norms_M[:, None] * norms_M)
        assert difference_MM.abs().max() < 1e-6
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-6, atol=1e-6)
        # The combination may be far smaller than what it is made of, whose rounding it has.
        assert found["norm"] == pytest.approx(expected["norm"], rel=3e-6, abs=1e-6 * float(norms_M.min()))
