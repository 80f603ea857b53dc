"""Batches, mini-batches, steps and budgets of tokens have to come out even."""

from __future__ import annotations

from typing import Any

import pytest

from ctwa.engine.checks.config import check_config
from ctwa.errors import CtwaError
from tests.engine.names import ACTOR, MODEL, PACKED, ROLLOUT, Changed


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"data.gen_batch_size": 6},
            r"train_batch_size=16 is not a multiple of data.gen_batch_size=6.*: write a divisor",
        ),
        ({f"{ACTOR}.ppo_mini_batch_size": 6}, r"train_batch_size=16 is not a multiple of .*=6: write 18 or another"),
        ({f"{ROLLOUT}.n": 1}, r"rollout\.n=1: covariances within a prompt need at least 2 completions"),
        (
            {f"{ACTOR}.ppo_mini_batch_size": 1, f"{ROLLOUT}.n": 3},
            r"a mini-batch of 1 prompts x 3 completions does not divide over 2 ranks",
        ),
        (
            {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 5},
            r"a rank's 32 rows of a mini-batch are not a multiple of ppo_micro_batch_size_per_gpu=5: write a divisor",
        ),
        (
            {"data.train_batch_size": 304},
            r"have 300 rows, less than one step's data\.train_batch_size=304: write at most",
        ),
        (
            {"data.train_max_samples": 8},
            r"^data\.train_max_samples=8 are less than .*_batch_size=16: write at least 16, or -1 for all 300",
        ),
        (
            {"trainer.total_epochs": 2},
            r"total_training_steps=50, but trainer\.total_epochs=2 of 300 rows in batches of 16 end after 36: write "
            r"trainer\.total_epochs=3$",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_batches_and_steps_that_do_not_come_out_even(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_a_budget_of_tokens_is_the_longest_row_of_all_ranks_that_share_it(changed: Changed) -> None:
    check_config(changed({f"{ACTOR}.ppo_max_token_len_per_gpu": 96}))
    fixed = {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4}
    check_config(changed({f"{ACTOR}.ppo_max_token_len_per_gpu": 90} | fixed))
    check_config(
        changed(
            PACKED
            | {f"{ACTOR}.ppo_max_token_len_per_gpu": 48, f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 2}
        )
    )


@pytest.mark.parametrize(
    "key", [f"{ACTOR}.ulysses_sequence_parallel_size", f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size"]
)
def test_ranks_of_a_sequence_parallel_group_share_their_rows(changed: Changed, key: str) -> None:
    batch = {"data.train_batch_size": 16, f"{ACTOR}.ppo_mini_batch_size": 1, "actor_rollout_ref.rollout.n": 4}
    ranks = {"trainer.n_gpus_per_node": 8, f"{MODEL}.use_remove_padding": True}
    with pytest.raises(CtwaError, match="1 prompts x 4 completions does not divide over 8 ranks"):
        check_config(changed(batch | ranks))
    check_config(changed(batch | ranks | {key: 4}))
    with pytest.raises(CtwaError, match=r"does not divide the 8 ranks .* write a divisor"):
        check_config(changed(batch | ranks | {key: 3}))
    with pytest.raises(CtwaError, match=r"write actor_rollout_ref\.model\.use_remove_padding=true"):
        check_config(changed(batch | ranks | {key: 4, f"{MODEL}.use_remove_padding": False}))
    with pytest.raises(CtwaError, match=r"'eager' .*attn_implementation=sdpa"):
        check_config(changed(batch | ranks | {key: 4, f"{MODEL}.override_config.attn_implementation": "eager"}))
