"""A checkpoint is gone on from by another number of ranks: nothing of it is lost or rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.verl.engine_ranks import KINDS, run_ranks, save_model


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    folder = tmp_path_factory.mktemp("resharding")
    save_model(folder)
    run_ranks("from_ranks_to_ranks", folder, 2, script=str(Path(__file__).with_name("resharding_ranks.py")))
    found: dict[Any, Any] = torch.load(folder / "found.pt")
    return found


def assert_same(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    assert one
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("loaded", ["by one", "by two again"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_optimizer_schedule_and_what_a_probe_kept_are_those_that_were_saved(
    kind: str, loaded: str, found: dict[Any, Any]
) -> None:
    saved, policy = found[kind, "saved"], found[kind, loaded]
    for part in ("weights", "optimizer", "kept"):
        assert_same(policy[part], saved[part])
    assert not all(torch.equal(value, saved["weights"][name]) for name, value in saved["kept"].items())
    assert policy["rate"] == saved["rate"] > 0
    assert torch.equal(policy["generator"], saved["generator"])  # of the first rank


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_after_it_is_the_one_that_the_ranks_would_have_made(kind: str, found: dict[Any, Any]) -> None:
    saved, expected, policy = (found[kind, when] for when in ("saved", "gone on with", "gone on with by one"))
    moved = max(float((value - saved["weights"][name]).abs().max()) for name, value in expected["weights"].items())
    assert moved > 0
    for name, value in expected["weights"].items():
        torch.testing.assert_close(policy["weights"][name], value, rtol=1e-6, atol=1e-3 * moved)
    assert policy["rate"] == expected["rate"] > saved["rate"]
