"""The names of the columns in which rows travel between driver, transfer queue and workers."""

from __future__ import annotations

from collections.abc import Iterable

ROW_COLUMN = "ctwa_row"
"""Numbers the rows of a step, so that what a worker recorded finds its place again."""

SEED_COLUMN = "sampling_seed"
"""Names the seed of each prompt's completions.

It is made of the run's seed, the step and the prompt's place in the batch, so a completion does not depend on the order
in which anything arrives, and a resumed run samples what the uninterrupted one would have.
"""

PROMPT_COLUMNS = (
    *("raw_prompt", "dummy_tensor", "data_source", "reward_model", "extra_info"),
    *("index", "tools_kwargs", "interaction_kwargs", "agent_name"),
)
"""What the engine is given of a prompt: a column of the user's own might have a name that means something to it."""

SAMPLED_COLUMNS = (
    "input_ids",
    "position_ids",
    "loss_mask",
    "response_mask",
    "prompts",
    "responses",
    "multi_modal_inputs",
)
"""What the policy's workers read of a completion."""

TRAINED_COLUMNS = ("old_log_probs", "ref_log_prob", "advantages", "rollout_is_weights", ROW_COLUMN)
"""What they read beside it in an update."""


def advantages_column(objective: int) -> str:
    """The advantages of an objective, by its place in alphabetical order."""
    return f"{_ADVANTAGES}{objective}"


def advantage_columns_of(names: Iterable[str]) -> list[str]:
    """Those of some columns that hold advantages: the step's, and the objectives' own."""
    return [name for name in names if name == "advantages" or name.startswith(_ADVANTAGES)]


def is_policy_column(name: str) -> bool:
    """Whether the policy's workers read a column: verl sends them every one there is, at every call, if it is let."""
    return name in SAMPLED_COLUMNS or name in TRAINED_COLUMNS or name.startswith(_ADVANTAGES)


_ADVANTAGES = "objective_advantages_"
