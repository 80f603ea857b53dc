"""Pairs on their way to the workers, and the losses that come of them there."""

from __future__ import annotations

import random

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from ctwa.engine.pairs.batches import PairBatch, to_rows
from ctwa.engine.pairs.objective import SOFT_LABEL, PairLoss
from ctwa.preference import DpoLoss, PairLogProbs, PairTokens, collate, objective_losses, objective_means, soft_losses
from ctwa.preference.tokenization import label_matrices

NAMES = ("a", "b")


def some_pairs(num: int, *, seed: int = 0, names: tuple[str, ...] = NAMES) -> list[PairTokens]:
    draw = random.Random(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 50) for _ in range(draw.randint(1, most)))

    return [
        PairTokens(tokens(4), tokens(9), tokens(9), {name: draw.choice((-1, 0, 1)) for name in names}, row)
        for row in range(num)
    ]


def some_log_probs(rows: TensorDict) -> torch.Tensor:
    """A number for every token but the last of a row, that follows from it and its place alone."""
    values = rows["input_ids"].values().float()
    return torch.nested.nested_tensor_from_jagged(
        (-0.01 * values * (1 + rows["position_ids"].values())).requires_grad_(), rows["input_ids"].offsets()
    )


def expected_sums(pairs: list[PairTokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from the pairs: the log-probability of a response's token stands at the place before it."""

    def of(prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
        ids = [*prompt, *response]
        return sum(-0.01 * ids[place - 1] * place for place in range(len(prompt), len(ids)))

    return (
        torch.tensor([of(pair.prompt, pair.chosen) for pair in pairs]),
        torch.tensor([of(pair.prompt, pair.rejected) for pair in pairs]),
    )


def micro_batches(rows: TensorDict, size: int, *, num_ranks: int = 1) -> list[TensorDict]:
    """As verl makes them, of ``size`` pairs."""
    parts = tu.chunk_tensordict(rows, len(rows) // (2 * size))
    for part in parts:
        tu.assign_non_tensor(part, dp_size=num_ranks)
    return parts


def test_the_two_responses_of_a_pair_follow_one_another() -> None:
    pairs = some_pairs(6)
    rows = to_rows(PairBatch(pairs, [6]), NAMES, num_ranks=1, pad_token_id=0)

    batch = collate(pairs, NAMES, pad_token_id=0)
    order = rows["pair"][::2].tolist()
    assert sorted(order) == list(range(6))
    assert rows["pair"][::2].tolist() == rows["pair"][1::2].tolist()
    for row, ids in enumerate(rows["input_ids"].unbind()):
        place = order[row // 2] + (row % 2) * 6  # collate has all the chosen ones first
        length = int(batch.attention_mask_NT[place].sum())
        assert ids.tolist() == batch.input_ids_NT[place, :length].tolist()
        assert rows["loss_mask"].unbind()[row].bool().tolist() == batch.response_mask_NT[place, :length].tolist()
        assert rows["position_ids"].unbind()[row].tolist() == list(range(length))
    assert rows["labels"][::2].tolist() == batch.labels_PM[order].tolist()


def test_every_rank_has_as_many_pairs_of_every_data_set() -> None:
    pairs = [*some_pairs(8, names=("a",)), *some_pairs(4, seed=1, names=("b",))]
    rows = to_rows(PairBatch(pairs, [8, 4]), NAMES, num_ranks=2, pad_token_id=0)

    for half in rows["pair"][::2].reshape(2, 6).tolist():
        assert [index < 8 for index in half] == [True] * 4 + [False] * 2
    assert tu.get_non_tensor_data(rows, "num_labelled", None) == (8, 4)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_parts_of_a_batch_add_up_to_its_losses(num_ranks: int) -> None:
    pairs = some_pairs(8)
    reference_P2 = -torch.rand(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch = PairBatch(pairs, [8], reference_P2)
    rows = to_rows(batch, NAMES, num_ranks=num_ranks, pad_token_id=0)

    objective = PairLoss(DpoLoss(), NAMES)
    totals = torch.zeros(2)
    for part in micro_batches(rows, 2, num_ranks=num_ranks):
        losses = objective.losses({"log_probs": some_log_probs(part)}, part)
        totals += torch.stack([torch.zeros(()) if loss is None else loss.detach() for loss in losses])

    chosen_P, rejected_P = expected_sums(pairs)
    log_probs = PairLogProbs(chosen_P, rejected_P, *batch.lengths(), *reference_P2.float().unbind(1))
    labels_PM, labelled_PM = label_matrices(batch.pairs, NAMES)
    expected_M = objective_means(objective_losses(DpoLoss(), log_probs, labels_PM), labelled_PM)
    # verl averages over ranks what each of them adds up.
    torch.testing.assert_close(totals / num_ranks, expected_M)
    seen = objective.take()
    torch.testing.assert_close(seen["chosen"].float(), chosen_P[seen["pair"]])
    torch.testing.assert_close(seen["rejected"].float(), rejected_P[seen["pair"]])


def test_an_objective_without_a_pair_in_the_micro_batch_has_no_loss_there() -> None:
    pairs = [*some_pairs(2, names=("a",)), *some_pairs(2, seed=1, names=("b",))]
    rows = to_rows(PairBatch(pairs, [2, 2], torch.zeros(4, 2)), NAMES, num_ranks=1, pad_token_id=0)
    first, second = micro_batches(rows, 2)

    def present(objective: PairLoss, part: TensorDict) -> list[bool]:
        return [loss is not None for loss in objective.losses({"log_probs": some_log_probs(part)}, part)]

    assert present(PairLoss(DpoLoss(), NAMES), first) == [True, False]
    assert present(PairLoss(DpoLoss(), NAMES), second) == [False, True]
    assert present(PairLoss(DpoLoss(), NAMES, skip_absent=False), first) == [True, True]


def test_only_responses_have_a_gradient() -> None:
    pairs = some_pairs(4)
    rows = to_rows(PairBatch(pairs, [4], torch.zeros(4, 2)), NAMES, num_ranks=1, pad_token_id=0)
    (part,) = micro_batches(rows, 4)
    values = (-part["input_ids"].values().float() / 50).requires_grad_()
    log_probs = torch.nested.nested_tensor_from_jagged(values, part["input_ids"].offsets())
    losses = PairLoss(DpoLoss(), NAMES).losses({"log_probs": log_probs}, part)
    sum(loss for loss in losses if loss is not None).backward()  # type: ignore[union-attr]

    decided = {row for row, labels in enumerate(part["labels"].tolist()) if any(labels)}
    gradient = torch.nested.nested_tensor_from_jagged(values.grad, part["input_ids"].offsets()).unbind()
    for row, (gradient_T, mask_T) in enumerate(zip(gradient, part["loss_mask"].unbind(), strict=True)):
        moved = [*mask_T[1:].bool().tolist(), False]
        assert (gradient_T != 0).tolist() == (moved if row in decided else [False] * len(moved))


def test_a_probability_takes_the_place_of_a_label() -> None:
    pairs = some_pairs(4, names=("a",))
    probability_P = torch.tensor([0.1, 0.5, 0.7, 1.0])
    batch = PairBatch(pairs, [4], torch.zeros(4, 2, dtype=torch.float64), {SOFT_LABEL: probability_P})
    (part,) = micro_batches(to_rows(batch, ("a",), num_ranks=1, pad_token_id=0), 4)
    (loss,) = PairLoss(DpoLoss(), ("a",)).losses({"log_probs": some_log_probs(part)}, part)

    log_probs = PairLogProbs(*expected_sums(pairs), *batch.lengths(), torch.zeros(4), torch.zeros(4))
    assert loss is not None
    torch.testing.assert_close(loss.detach(), soft_losses(DpoLoss(), log_probs, probability_P).mean())


def test_passes_that_meet_a_micro_batch_again_keep_it_once() -> None:
    rows = to_rows(PairBatch(some_pairs(4), [4], torch.zeros(4, 2)), NAMES, num_ranks=1, pad_token_id=0)
    objective = PairLoss(DpoLoss(), NAMES)
    for _ in range(3):
        for part in micro_batches(rows, 2):
            objective.losses({"log_probs": some_log_probs(part)}, part)
    assert sorted(objective.take()["pair"].tolist()) == [0, 1, 2, 3]
