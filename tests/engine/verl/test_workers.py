"""What a policy's worker records and sends, on an engine that is not there."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.workers.engine_workers import TrainingWorker

from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.engine.pairs.objective import PairLoss
from ctwa.engine.verl.columns import ROW_COLUMN
from ctwa.engine.verl.rows import RowValues, in_order
from ctwa.engine.verl.workers import PolicyWorker, check_folder
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan, GradientRecord
from ctwa.gradients.settings import GradientSettings
from ctwa.preference.losses import CpoLoss

PROMPTS, RESPONSES = [2, 3, 1], [4, 2, 3]


def nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def log_probs_of(places: list[int]) -> Tensor:
    """At a row's position the number of the place times 100 and the position of the token behind it."""
    lengths = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    rows = [100.0 * place + torch.arange(1, length + 1) for place, length in zip(places, lengths, strict=True)]
    return nested(rows)


def batch(places: list[int]) -> TensorDict:
    masks = nested([torch.ones(length) for length in RESPONSES])
    return TensorDict({"response_mask": masks, ROW_COLUMN: torch.tensor(places)}, batch_size=len(places))


def worker(*, answers: bool = True) -> PolicyWorker:
    """A worker whose start was skipped; with sequence parallelism one rank of a group answers for all."""
    made = object.__new__(PolicyWorker)
    made._source, made._log_probs = None, {}
    made.engine = SimpleNamespace(is_mp_src_rank_with_outputs=lambda: answers, collects=False)
    return made


def expected_rows(places: list[int]) -> dict[int, Tensor]:
    """Of each place of the step: a response's first token stands behind the prompt."""
    return {
        place: 100.0 * place + prompt + torch.arange(response)
        for place, prompt, response in zip(places, PROMPTS, RESPONSES, strict=True)
        if place >= 0
    }


def together(rows: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """How long the rows are, and their values one row after the other."""
    values = [rows[place] for place in sorted(rows)]
    return torch.tensor([len(each) for each in values]), torch.cat(values)


def test_rows_come_back_in_the_step_s_order_and_those_that_fill_a_batch_up_do_not() -> None:
    places = [2, -1, 0]
    one = worker()
    one.record_update("in_update")
    one._record(log_probs_of(places), batch(places))
    other = RowValues.of({1: torch.tensor([7.0])})
    lengths_N, expected = together(expected_rows(places) | {1: torch.tensor([7.0])})
    assert torch.equal(in_order([one.take_update(), other, worker().take_update()], lengths_N), expected)


def test_with_several_epochs_the_last_counts() -> None:
    places = [0, 1, 2]
    one = worker()
    for scale in (3.0, 1.0):
        one._record(log_probs_of(places) * scale, batch(places))
    lengths_N, expected = together(expected_rows(places))
    assert torch.equal(in_order([one.take_update()], lengths_N), expected)


def test_a_row_that_nobody_recorded_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"\[1\]"):
        in_order([RowValues.of({0: torch.ones(2), 2: torch.ones(1)})], torch.tensor([2, 1, 1]))


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("source", ["in_update", "post_update"])
def test_a_rank_that_does_not_answer_for_its_group_records_nothing(
    source: Any, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [0, 1, 2]

    def train(self: PolicyWorker, data: TensorDict) -> None:
        self.loss_fn({"log_probs": log_probs_of(places)}, data)

    def infer(self: PolicyWorker, data: TensorDict) -> dict | None:
        return {"log_probs": log_probs_of(places)} if answers else None

    monkeypatch.setattr(TrainingWorker, "train_mini_batch", train)
    monkeypatch.setattr(TrainingWorker, "infer_batch", infer)
    one = worker(answers=answers)
    one.set_loss_fn(lambda **_: (torch.zeros(()), {}))
    one.record_update(source)
    one.train_mini_batch(batch(places))
    assert one.take_update().rows_R.tolist() == (places if answers else [])


# -- what is sent -------------------------------------------------------------------------------------------------

NUM_ROWS, LENGTH = 64, 128


def size(sent: Any) -> int:
    """In bytes, pickled as Ray does it."""
    return len(pickle.dumps(sent, protocol=5))


def test_log_probs_are_sent_once() -> None:
    places = list(range(NUM_ROWS))
    one = worker()
    values = nested([torch.randn(LENGTH + 1) for _ in places])
    masks = nested([torch.ones(LENGTH) for _ in places])
    one._record(values, TensorDict({"response_mask": masks, ROW_COLUMN: torch.tensor(places)}, batch_size=NUM_ROWS))
    payload = NUM_ROWS * LENGTH * 4
    assert payload < size(one.take_update()) < 1.1 * payload


def test_the_log_probs_of_pairs_are_sent_once() -> None:
    objective = PairLoss(CpoLoss(), ("a",))
    for pair in range(0, NUM_ROWS, 4):
        sums = torch.randn(1024, dtype=torch.float64)
        objective.seen[pair] = (torch.arange(pair, pair + 4), sums[:4], sums[4:8])
    payload = NUM_ROWS * 3 * 8
    assert size(dict(objective.take().items())) < 2 * payload + 1024  # the names, and what says it is three tensors


def test_a_plan_is_as_small_as_what_it_says() -> None:
    wide_MM = torch.ones(512, 512, dtype=torch.float64)
    plan = GradientPlan(("a", "b"), build_aggregator(MgdaConfig(), {"a": 1.0, "b": 1.0}), GradientSettings())
    assert plan.aggregator is not None
    solution = plan.aggregator.solve(wide_MM[:2, :2].clone(), losses_M=None, learning_rate=0.1)
    plan.records.append(GradientRecord(wide_MM[:2, :2].clone(), solution.weights_M, False, {}))
    assert size(plan) < 8192


class Ranks:
    """The first two ranks' answers; the second's machine has a folder of its own."""

    def sees(self, path: str) -> list[str | None]:
        assert Path(path).is_file()
        return [None, "machine-b"]


def test_a_run_folder_that_a_rank_does_not_see_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(CtwaError, match=r"^rank 1 \(on machine-b\) does not see the run folder .* all nodes share"):
        check_folder(Ranks(), tmp_path)
    assert list(tmp_path.iterdir()) == []
