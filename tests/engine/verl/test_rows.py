"""Names, places and mini-batches of a step's rows."""

from __future__ import annotations

import pytest

from ctwa.engine.verl.columns import SEED_COLUMN
from ctwa.engine.verl.rows import Prompts, check_sequences, deal_rows, mini_batches, num_missing, place_of, prompt_name
from ctwa.errors import CtwaError
from ctwa.policy_loss import Gspo, PolicyLoss, Vanilla


def batch(*texts: str) -> dict[str, list[str]]:
    return {"raw_prompt": list(texts), "answer": [text.upper() for text in texts]}


def test_a_prompts_name_and_seed_are_those_of_its_place() -> None:
    prompts = Prompts(seed=7)
    first, second = (prompts.name(batch(*texts), "train", 3, "train/3") for texts in (("a", "b"), ("c",)))

    assert [*first["uid"], *second["uid"]] == ["train000003-00000", "train000003-00001", "train000003-00002"]
    assert [*first[SEED_COLUMN], *second[SEED_COLUMN]] == ["7/train/3/0", "7/train/3/1", "7/train/3/2"]
    assert prompts.rows["train000003-00002"] == {"prompt": "c", "answer": "C"}
    prompts.clear()
    assert list(prompts.name(batch("d"), "train", 4, "train/4")["uid"]) == ["train000004-00000"]
    assert list(prompts.rows) == ["train000004-00000"]


def test_the_policy_alone_is_told_weights() -> None:
    """A reward is about the prompt as it is in the data."""
    prompts = Prompts(7, lambda prompt, split, seed: ([*prompt, split, seed], {"a": 1.0}))
    named = prompts.name({"raw_prompt": [["x"], ["y"]]}, "train", 3, "train/3")

    assert list(named["raw_prompt"]) == [["x", "train", "7/train/3/0"], ["y", "train", "7/train/3/1"]]
    assert [row["prompt"] for row in prompts.rows.values()] == [["x"], ["y"]]
    assert prompts.weights == {"train000003-00000": {"a": 1.0}, "train000003-00001": {"a": 1.0}}


def test_columns_of_the_users_own_are_the_rewards_alone() -> None:
    """One called `validate` or `temperature` would mean something to the engine."""
    prompts = Prompts(seed=7)
    of_verl = {"index": [0], "dummy_tensor": [0]}  # the tensor is none of the rewards': they do without torch
    named = prompts.name({**batch("a"), "validate": [True], "uid": ["mine"], **of_verl}, "train", 1, "train/1")

    assert set(named) == {"raw_prompt", "index", "dummy_tensor", "uid", SEED_COLUMN}
    assert prompts.rows == {
        "train000001-00000": {"prompt": "a", "answer": "A", "validate": True, "uid": "mine", "index": 0}
    }


def test_rows_are_ordered_by_number_and_not_by_letter() -> None:
    keys = ["train1_b-00001_10_0", "train1_b-00001_2_0", "train1_b-00000_11_0"]

    assert sorted(keys, key=place_of) == [keys[2], keys[1], keys[0]]
    assert {prompt_name(key) for key in keys} == {"train1_b-00000", "train1_b-00001"}


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_mini_batch_is_the_same_rows_whatever_the_number_of_ranks(num_ranks: int) -> None:
    lengths = [9, 1, 5, 3, 2, 8, 7, 1, 6, 6, 4, 2, 3, 3, 9, 9]
    rows_of_rank = deal_rows(lengths, rows_per_minibatch=8, num_ranks=num_ranks)

    per_rank = 8 // num_ranks
    for start in (0, 8):
        parts = [rows[start // num_ranks : start // num_ranks + per_rank] for rows in rows_of_rank]
        assert sorted(row for part in parts for row in part) == list(range(start, start + 8))
        assert all(part == sorted(part) for part in parts)


KEYS = [f"train000001-{prompt:05d}_{session}_0" for prompt in range(4) for session in range(5)]


@pytest.mark.parametrize(("lost", "limit"), [(0, 0.0), (1, 0.05), (5, 0.25), (19, 1.0)])
def test_lost_completions_are_counted_up_to_a_share(lost: int, limit: float) -> None:
    assert num_missing(20 - lost, 20, limit=limit) == lost


@pytest.mark.parametrize(("lost", "limit"), [(1, 0.0), (2, 0.05), (6, 0.25), (20, 1.0)])
def test_more_than_the_share_or_all_stop_the_run(lost: int, limit: float) -> None:
    with pytest.raises(
        CtwaError, match=f"{lost} of 20 completions were lost, more than ctwa.rollout.max_missing={limit:g}"
    ):
        num_missing(20 - lost, 20, limit=limit)


@pytest.mark.parametrize(
    "loss", [Gspo(low=0.2, high=0.2), Vanilla(0.2, 0.2, by_completion=True), None], ids=["ratio", "mean", "unknown"]
)
def test_several_sequences_are_refused_where_the_loss_asks_for_their_ends(loss: PolicyLoss | None) -> None:
    several = [*KEYS, "train000001-00003_4_1"]
    check_sequences(several, Vanilla(0.2, 0.2), "vanilla, token-mean")
    check_sequences(KEYS, loss, "l")
    with pytest.raises(CtwaError, match=r"gave several sequences for one completion .*_4_1.*, and the loss \(l\)"):
        check_sequences(several, loss, "l")


def test_mini_batches_are_whole_prompts_and_filled_up_to_one_size() -> None:
    assert mini_batches([1] * 8, num_completions=4, num_ranks=2) == (4, list(range(8)))
    assert mini_batches([1] * 7, num_completions=4, num_ranks=2) == (4, list(range(8)))  # a completion was lost
    # Two completions of 1 and 3 rows, one of 1 and none to go with it: 6 are those that fill up.
    assert mini_batches([1, 4, 1], num_completions=2, num_ranks=2) == (6, [0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10, 11])
