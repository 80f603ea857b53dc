import math

import pytest
import torch
from torch import Tensor

from ctwa.covariance import TokenWeights, completion_weights, token_weights
from ctwa.covariance.weights import LengthNormalization
from ctwa.policy_loss import GeoMean, Gspo, PolicyLoss, Vanilla, clip_indicator

CLIP = Vanilla(low=0.2, high=0.2)


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weights_of(ratio, advantages, mask, clip: Vanilla) -> TokenWeights:
    """Token weights of completions with one advantage each."""
    ratio_NT, mask_NT = tensor(ratio), tensor(mask)
    advantages_NT = tensor(advantages)[:, None].expand_as(ratio_NT)
    return token_weights(ratio_NT.log(), torch.zeros_like(ratio_NT), advantages_NT, mask_NT, clip)


@pytest.fixture
def batch() -> tuple:
    ratio = [[1.1, 1.3, 0.7, 9.9], [0.9, 0.75, 1.5, 1.0], [1.0, 5.0, 0.1, 1.0]]
    mask = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    return ratio, [1.0, -0.5, 0.0], mask


def test_indicator_of_eq_6(batch):
    tokens = weights_of(*batch, CLIP)
    assert tokens.kept_NT.int().tolist() == [[1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ("mean", [0.6, -0.425, 0]),
        ("sum", [1.8, -1.7, 0]),
        ("max_length", [0.45, -0.425, 0]),
        ("mean_unclipped", [0.9, -1.7 / 3, 0]),
    ],
)
def test_completion_weights_of_every_length(batch, length, expected):
    weights_N = completion_weights(weights_of(*batch, CLIP), length).weight_N
    torch.testing.assert_close(weights_N, tensor(expected), rtol=0, atol=1e-9)


def test_without_clipping_every_token_counts(batch):
    weights_N = completion_weights(weights_of(*batch, Vanilla())).weight_N
    torch.testing.assert_close(weights_N, tensor([3.1 / 3, -0.51875, 0]), rtol=0, atol=1e-9)


def test_golden_dual_clip(goldens):
    golden = goldens["C2_dual_clip"]
    mask = [[1, 1], [1, 1]]
    dual = weights_of(golden["ratio"], golden["adv"], mask, Vanilla(0.2, 0.2, dual=golden["dual"]))
    assert dual.kept_NT.int().tolist() == golden["indicator_dual"]
    torch.testing.assert_close(completion_weights(dual).weight_N, tensor(golden["w_dual"]), rtol=0, atol=1e-9)
    eq_6 = completion_weights(weights_of(golden["ratio"], golden["adv"], mask, CLIP))
    torch.testing.assert_close(eq_6.weight_N, tensor(golden["w_eq6"]), rtol=0, atol=1e-9)


def test_golden_length(goldens):
    golden = goldens["C3_length"]
    mask = [[1] * length + [0] * (4 - length) for length in golden["lengths"]]
    tokens = weights_of([[1.0] * 4] * 2, golden["adv"], mask, CLIP)
    for length, key in {"mean": "w_mean", "sum": "w_sum", "max_length": "w_Lmax"}.items():
        torch.testing.assert_close(completion_weights(tokens, length).weight_N, tensor(golden[key]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("clip", [CLIP, Vanilla(0.2, 0.28), Vanilla(0.2, 0.28, dual=3.0), Vanilla()])
def test_weights_are_the_gradient_of_the_clipped_loss(clip):
    generator = torch.Generator().manual_seed(0)
    advantages_NT = torch.randn(64, 32, dtype=torch.float64, generator=generator)
    old_NT = torch.randn(64, 32, dtype=torch.float64, generator=generator)
    new_NT = (old_NT + torch.randn(64, 32, dtype=torch.float64, generator=generator)).requires_grad_()
    ratio_NT = (new_NT - old_NT).exp()
    loss_NT = torch.maximum(-advantages_NT * ratio_NT, -advantages_NT * ratio_NT.clamp(1 - clip.low, 1 + clip.high))
    if clip.dual is not None:
        loss_NT = torch.where(advantages_NT < 0, torch.minimum(loss_NT, -advantages_NT * clip.dual), loss_NT)
    loss_NT.sum().backward()
    tokens = token_weights(new_NT.detach(), old_NT, advantages_NT, torch.ones_like(old_NT), clip)
    torch.testing.assert_close(tokens.weight_NT, -new_NT.grad, rtol=1e-12, atol=1e-12)
    assert tokens.kept_NT.all() == (clip == Vanilla())


def test_zero_advantage_follows_the_upper_bound():
    kept_NT = clip_indicator(tensor([[0.1, 1.2, 1.3]]), tensor([[0.0, 0.0, 0.0]]), low=0.2, high=0.2)
    assert kept_NT.tolist() == [[True, True, False]]


def test_on_policy_weight_is_the_advantage():
    advantages_N = tensor([0.3, -1.7])
    tokens = weights_of([[1.0] * 5] * 2, advantages_N.tolist(), [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], CLIP)
    torch.testing.assert_close(completion_weights(tokens).weight_N, advantages_N, rtol=1e-15, atol=0)


def test_advantages_may_differ_from_token_to_token():
    tokens = token_weights(
        tensor([[1.5, 1.5]]).log(), torch.zeros(1, 2), tensor([[1.0, -1.0]]), torch.ones(1, 2), Vanilla(0.2, 0.2)
    )
    assert tokens.kept_NT.tolist() == [[False, True]]
    torch.testing.assert_close(tokens.weight_NT, tensor([[0.0, -1.5]]))


def test_log_ratio_is_clamped():
    tokens = token_weights(tensor([[900.0]]), tensor([[0.0]]), tensor([[1.0]]), torch.ones(1, 1), Vanilla())
    assert tokens.weight_NT.item() == pytest.approx(math.exp(20))


@pytest.mark.parametrize("padding", [0.0, 7.0, math.nan, math.inf, -math.inf])
def test_padding_has_no_influence(batch, padding):
    ratio, advantages, mask = batch
    mask_NT = tensor(mask).bool()
    clean = completion_weights(weights_of(*batch, CLIP))
    padded = [
        torch.where(mask_NT, values_NT, padding)
        for values_NT in (tensor(ratio).log(), torch.zeros(3, 4), tensor(advantages)[:, None].expand(3, 4))
    ]
    dirty = completion_weights(token_weights(*padded, mask_NT, CLIP))
    assert torch.equal(clean.weight_N, dirty.weight_N)


def test_a_token_that_is_not_a_number_is_not_taken_for_a_clipped_one():
    tokens = token_weights(tensor([[math.nan, 0.0]]), torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), CLIP)
    assert completion_weights(tokens).weight_N.isnan().all()


@pytest.mark.parametrize("length", ["mean", "sum", "max_length", "mean_unclipped"])
def test_a_completion_without_tokens_is_invalid(length):
    completions = completion_weights(weights_of([[1.0, 1.0]] * 2, [1.0, 1.0], [[0, 0], [1, 0]], CLIP), length)
    assert completions.valid_N.tolist() == [False, True]
    assert completions.weight_N[0] == 0


@pytest.mark.parametrize("loss", [CLIP, GeoMean(0.2, 0.2), Gspo(0.2, 0.2)])
@pytest.mark.parametrize("length", ["mean", "sum", "mean_unclipped"])
def test_tokens_of_tools_within_a_completion_have_no_influence(loss: PolicyLoss, length: LengthNormalization) -> None:
    mask_NT = tensor([[1, 0, 1, 1], [1, 1, 0, 1]])
    whole_NT = tensor([[0.1, math.nan, 0.4, -0.1], [-0.2, 0.3, math.inf, 0.05]])
    packed_NT = whole_NT[mask_NT.bool()].view(2, 3)
    ones_NT = torch.ones(2, 3).double()

    def weights(log_ratio_NT: Tensor, mask_NT: Tensor) -> Tensor:
        advantages_NT = tensor([[1.0], [-0.5]]).expand_as(log_ratio_NT)
        return completion_weights(
            token_weights(log_ratio_NT, log_ratio_NT * 0, advantages_NT, mask_NT, loss), length
        ).weight_N

    torch.testing.assert_close(weights(whole_NT, mask_NT), weights(packed_NT, ones_NT))


@pytest.mark.parametrize("loss", [CLIP, Gspo(0.1, 0.2, by_completion=True), GeoMean(0.2, 0.2)])
def test_completions_that_are_weighed_in_parts_weigh_the_same_to_the_bit(
    loss: PolicyLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    new_NT, old_NT, advantages_NT, importance_NT = torch.randn(4, 23, 16, generator=generator)
    mask_NT = torch.arange(16) < torch.randint(1, 17, (23, 1), generator=generator)
    rejected_NT = mask_NT & (torch.rand(23, 16, generator=generator) < 0.1)

    def weigh(at_once: int) -> TokenWeights:
        monkeypatch.setattr("ctwa.covariance.weights._TOKENS_AT_ONCE", at_once)
        corrected = {"rejected_NT": rejected_NT, "importance_NT": importance_NT.exp()}
        return token_weights(new_NT, old_NT, advantages_NT, mask_NT, loss, **corrected)

    parts, whole = weigh(5 * 16), weigh(1 << 20)
    assert torch.equal(parts.weight_NT, whole.weight_NT)
    assert torch.equal(parts.kept_NT, whole.kept_NT)
