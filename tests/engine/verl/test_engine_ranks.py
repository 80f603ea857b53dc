"""The engine itself, without Ray: however the objectives' gradients are taken, on any ranks, they are autograd's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.verl.engine_ranks import KINDS, OUR_METHODS, PREFERENCE, run_ranks, save_model

BF16 = "lora, bf16, checkpoints"
LAYOUTS = ("padded", "packed")
PASSES = ("shared_forward", "sequential")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process found."""
    folder = tmp_path_factory.mktemp("ranks")
    save_model(folder)
    run_ranks("all_of_it", folder, 1, script=str(Path(__file__).with_name("one_rank.py")))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = torch.load(folder / "one_rank.pt")
    return found


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """What two ranks found, beside it."""
    run_ranks("all_of_it", folder, 2, script=str(Path(__file__).with_name("two_ranks.py")))
    return folder


@pytest.fixture(scope="module")
def measured(two: Path) -> list[dict]:
    """What one process measured, and what each of two ranks with two micro-batches each did."""
    return [torch.load(two / f"measured-{which}.pt") for which in ("0of1", "0of2", "1of2")]


@pytest.fixture(scope="module")
def resharded(two: Path) -> dict[Any, Any]:
    """A policy as it was saved by so many ranks, and loaded by others."""
    found: dict[Any, Any] = torch.load(two / "resharded.pt")
    return found


def is_close(one_D: Tensor, other_D: Tensor, tolerance: float = 1e-5) -> None:
    assert float((one_D - other_D).norm()) < tolerance * float(other_D.norm())


def test_packed_rows_have_the_values_and_the_gradient_of_padded_ones(found: dict) -> None:
    padded, packed = found["rows of prompts"]

    torch.testing.assert_close(packed["values"], padded["values"], rtol=1e-5, atol=1e-5)
    is_close(packed["gradient"], padded["gradient"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [*KINDS, BF16])
def test_with_a_cross_entropy_that_goes_backward_in_place_the_gradients_are_autograds(
    kind: str, layout: str, found: dict
) -> None:
    steps = found[kind, layout]
    for subject in ("", "preference/"):
        gradients_MD = torch.stack([step["gradient"] for step in steps[f"{subject}plain"]])
        norms_M = gradients_MD.norm(dim=1)
        scale_MM = norms_M[:, None] * norms_M
        assert norms_M.min() > 0
        for passes in PASSES:
            step = steps[subject + passes]
            torch.testing.assert_close(
                step["gram"] / scale_MM, gradients_MD @ gradients_MD.T / scale_MM, rtol=0, atol=1e-5
            )
            is_close(step["gradient"], step["weights"] @ gradients_MD)
        # A call each micro-batch: in place wherever a graph is gone through once.
        assert steps[f"{subject}plain"][0]["in_place"] == [True, True]
        assert steps[f"{subject}shared_forward"]["in_place"] == [False, False]
        assert steps[f"{subject}sequential"]["in_place"] == [True] * 2 * len(PREFERENCE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [*KINDS, BF16])
def test_without_a_radius_raco_is_loss_weighting_to_the_bit(kind: str, layout: str, found: dict) -> None:
    linear, raco = (found[kind, layout][f"preference/fixed/{name}"] for name in ("linear", "raco"))
    assert torch.equal(raco["gradient"], linear["gradient"])
    assert torch.equal(raco["weights"], linear["weights"])
    assert linear["in_place"] == [True, True]  # one backward pass a micro-batch
    measured = found[kind, layout]["preference/shared_forward"]["gradient"]
    is_close(linear["gradient"], measured, 0.15 if kind == BF16 else 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [*KINDS, BF16])
def test_a_step_whose_gradients_are_measured_is_the_step_without(kind: str, layout: str, found: dict) -> None:
    steps = found[kind, layout]
    weighted_D = sum(w * step["gradient"] for w, step in zip(PREFERENCE.values(), steps["plain"], strict=True))
    tolerance = 0.03 if kind == BF16 else 1e-5  # of another sum, or other shapes
    is_close(steps["step"]["gradient"], weighted_D, tolerance)
    is_close(steps["step"]["gradient"], found[kind, "padded"]["step"]["gradient"], tolerance)
    for passes in PASSES:
        is_close(steps[f"diagnostics/{passes}"]["gradient"], steps["step"]["gradient"])
        torch.testing.assert_close(steps[f"diagnostics/{passes}"]["gram"], steps[passes]["gram"], rtol=1e-5, atol=1e-12)


def test_a_compiled_entropy_goes_backward_with_the_shared_loss_which_is_the_last(found: dict) -> None:
    """What torch compiles frees its buffers in a backward pass: it stands none of a graph that is to be kept."""
    shared_forward, sequential = found["compiled entropy"]
    torch.testing.assert_close(shared_forward["gram"], sequential["gram"], rtol=1e-5, atol=1e-12)
    is_close(shared_forward["gradient"], sequential["gradient"])


def test_an_output_layer_that_is_fused_with_the_log_probs_stands_several_backward_passes(found: dict) -> None:
    shared_forward, sequential = found["fused output"]
    torch.testing.assert_close(shared_forward["gram"], sequential["gram"], rtol=1e-5, atol=1e-12)
    is_close(shared_forward["gradient"], found["full", "packed"]["shared_forward"]["gradient"])


@pytest.mark.parametrize("stays", [False, True], ids=["resharded", "gathered"])
def test_weights_that_stay_gathered_after_a_pass_mislead_no_other(stays: bool, found: dict) -> None:
    before, other, again = found["gathered", stays]["log_probs"]
    assert not torch.allclose(other, before, atol=1e-3)
    torch.testing.assert_close(again, before, rtol=0, atol=0)
    last_layers, expected = found["gathered", stays]["last_layers"], found["gathered", False]["last_layers"]
    torch.testing.assert_close(last_layers["weights"], expected["weights"], rtol=1e-5, atol=1e-6)
    is_close(last_layers["gradient"], expected["gradient"])


def test_a_gradient_that_is_not_finite_moves_nothing_and_the_next_step_does(found: dict) -> None:
    *broken, sound = found["skipped step"]
    for number, step in enumerate(broken, start=1):
        left_out = {"moved": 0.0, "skipped": True, "num_left_out": 1, "num_skipped": number}
        assert step == {**left_out, "weights": [0.5, 0.5]}  # the method's, as they were
    assert sound["moved"] > 0
    assert (sound["skipped"], sound["num_left_out"], sound["num_skipped"]) == (False, 0, 2)
    assert sound["weights"] != [0.5, 0.5]


def test_a_policy_with_a_weight_that_is_not_finite_is_not_saved(found: dict) -> None:
    assert found["broken weight"].startswith("weights of the policy are not finite (model.embed_tokens.weight")


@pytest.mark.parametrize("which", ["for the rollout", "for the rollout, outside"])
def test_a_rollout_without_adapters_gets_the_weights_with_the_adapter_in_them_unrounded(
    which: str, found: dict
) -> None:
    before, sent, after = (found[which][when] for when in ("before", "sent", "after"))
    assert {weight.dtype for weight in sent.values()} == {torch.float32}
    changed = 0
    for name, weight in before.items():
        assert torch.equal(after[name], weight), name
        if ".lora_" in name:
            continue
        expected, module = weight, name.removesuffix("base_layer.weight")
        if f"{module}lora_A.default.weight" in before:
            down_RI, up_OR = (before[f"{module}lora_{half}.default.weight"] for half in "AB")
            expected = weight + 16 / 4 * up_OR @ down_RI  # verl's lora_alpha, and the rank of KINDS
            changed += 1
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        torch.testing.assert_close(sent[plain], expected, rtol=1e-6, atol=1e-6)
    assert changed > 0


# -- two ranks ----------------------------------------------------------------------------------------------------


def test_two_ranks_that_share_their_rows_train_and_weigh_as_one_does(measured: list[dict]) -> None:
    one, *two = [ranks["sequence parallel"] for ranks in measured]
    for step, (expected, first, second) in enumerate(zip(one, *two, strict=True)):
        assert (first["sent"], second["sent"]) == ([0, 1, 2, 3], [])
        assert expected["moved"].abs().max() > 0
        assert first["norm"] == pytest.approx(expected["norm"], rel=1e-5)
        torch.testing.assert_close(first["log_probs"], expected["log_probs"], rtol=1e-5, atol=1e-5)
        assert first["weights"] == second["weights"] == pytest.approx(expected["weights"], rel=1e-4)
        assert (step == 0) == (expected["weights"] != one[1]["weights"])


@pytest.mark.parametrize("method", OUR_METHODS)
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


@pytest.mark.parametrize("metric", ["euclidean", "optimizer"])
def test_halves_of_a_mini_batch_are_measured_the_same_on_one_rank_and_on_two(metric: str, measured: list[dict]) -> None:
    """The oracle takes the gradients of the halves as those of six objectives. Each of two ranks has one half alone."""
    one, first, second = [ranks["cross-fitted"][metric] for ranks in measured]
    six = one["six"]
    plain_MM = six[:3, :3] + six[3:, 3:] + six[:3, 3:] + six[3:, :3]
    norms_M = plain_MM.diagonal().sqrt()
    scale_MM = norms_M[:, None] * norms_M
    torch.testing.assert_close(one["plain"] / scale_MM, plain_MM / scale_MM, rtol=0, atol=1e-5)
    if metric == "euclidean":  # the first measurement is the mean
        cross_MM = 2 * (six[:3, 3:] + six[3:, :3])
        torch.testing.assert_close(one["gram"] / scale_MM, cross_MM / scale_MM, rtol=0, atol=1e-5)
        assert float((cross_MM - plain_MM).abs().max()) > 0.1 * float(plain_MM.max())
    else:
        assert one["metrics"]["conflict/num_measured"] == 2
        assert float(plain_MM.max()) > 100 * float(measured[0]["cross-fitted"]["euclidean"]["six"].max())
    assert first["state"] == second["state"]
    torch.testing.assert_close(first["gram"] / scale_MM, one["gram"] / scale_MM, rtol=0, atol=1e-5)
    torch.testing.assert_close(first["weights"], one["weights"], rtol=0, atol=1e-4)
    assert first["norm"] == pytest.approx(one["norm"], rel=1e-4)


# -- a checkpoint is gone on from by another number of ranks: nothing of it is lost or rounded ---------------------


def assert_same(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    assert one
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("loaded", ["by one", "by two again"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_optimizer_schedule_and_what_a_probe_kept_are_those_that_were_saved(
    kind: str, loaded: str, resharded: dict[Any, Any]
) -> None:
    saved, policy = resharded[kind, "saved"], resharded[kind, loaded]
    for part in ("weights", "optimizer", "kept"):
        assert_same(policy[part], saved[part])
    assert not all(torch.equal(value, saved["weights"][name]) for name, value in saved["kept"].items())
    assert policy["rate"] == saved["rate"] > 0
    assert torch.equal(policy["generator"], saved["generator"])  # of the first rank


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_after_it_is_the_one_that_the_ranks_would_have_made(kind: str, resharded: dict[Any, Any]) -> None:
    saved, expected, policy = (resharded[kind, when] for when in ("saved", "gone on with", "gone on with by one"))
    moved = max(float((value - saved["weights"][name]).abs().max()) for name, value in expected["weights"].items())
    assert moved > 0
    for name, value in expected["weights"].items():
        torch.testing.assert_close(policy["weights"][name], value, rtol=1e-6, atol=1e-3 * moved)
    assert policy["rate"] == expected["rate"] > saved["rate"]
