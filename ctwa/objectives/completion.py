"""One completion, as the reward functions see it."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# The columns of verl's data format that have a name of their own; whatever else a row has is `row`.
NAMED_COLUMNS = ("prompt", "data_source", "reward_model", "extra_info")


Split = Literal["train", "val"]


@dataclass(frozen=True)
class Moment:
    """When in a run completions were sampled, and what for.

    Attributes:
        split: ``train`` for those that are trained on, ``val`` for those that are measured alone.
        step: the step that trains on them, from 1; of a validation the steps made before it. None outside of a run.
        progress: the share of the run's steps that were made before, from 0 to 1; 1 outside of a run.
    """

    split: Split = "val"
    step: int | None = None
    progress: float = 1.0

    @classmethod
    def of_run(cls, split: Split, steps_made: int, num_steps: int) -> Moment:
        """After so many steps of a run."""
        return cls(split, steps_made + (split == "train"), min(1.0, steps_made / num_steps))


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt, with what a reward function may ask for.

    Attributes:
        response: the decoded completion without special tokens; of several turns those of the policy, a line each.
        prompt: the text of the prompt.
        ground_truth: the data set's ``reward_model.ground_truth``; None where it has none.
        data_source: the data set's ``data_source``.
        extra_info: the data set's ``extra_info``.
        response_tokens: number of tokens that the policy wrote, end-of-sequence tokens included.
        reference_tokens: the length conciseness is measured against, in tokens; None where there is none.
        finished: the completion ended by itself, not at a limit of its length or of its turns.
        row: the data set's other columns.
        raw_prompt: the prompt as the data has it: messages, or a text; a text alone is the prompt's own.
        token_ids: the policy's tokens, ends of sequence included; None where nobody counted in tokens.
        moment: when in the run it was sampled.
        turns: of several turns the messages that follow the prompt; None where there is one.
        tool_rewards: what the tools themselves gave for their calls, in order.
        weights: what the policy was told to weigh each objective with; None where it was told nothing. They stand in no
            prompt here: a reward is about what was asked, whatever the weights.
    """

    response: str
    prompt: str
    ground_truth: Any
    data_source: str
    extra_info: dict[str, Any]
    response_tokens: int
    reference_tokens: float | None
    finished: bool
    row: dict[str, Any]
    raw_prompt: Any = ""
    token_ids: array[int] | None = None
    moment: Moment = Moment()
    turns: tuple[dict[str, Any], ...] | None = None
    tool_rewards: list[float] = field(default_factory=list)
    weights: Mapping[str, float] | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages that follow the prompt: the policy's, and those of tools in between."""
        return [{"role": "assistant", "content": self.response}] if self.turns is None else list(self.turns)

    @property
    def transcript(self) -> str:
        """All that was said, for a reader: of one turn the response."""
        if self.turns is None or len(self.turns) == 1:
            return self.response
        return "\n".join(f"[{message['role']}] {message.get('content') or ''}" for message in self.turns)

    @property
    def split(self) -> Split:
        """What it is scored for."""
        return self.moment.split

    @property
    def step(self) -> int | None:
        """The step that trains on it."""
        return self.moment.step

    @property
    def progress(self) -> float:
        """The share of the run that was over."""
        return self.moment.progress

    def column(self, name: str) -> Any:
        """What the data set has in a column or, where there is no such column, under that key of ``extra_info``.

        None where it has neither.
        """
        if name == "data_source":
            return self.data_source
        return self.row[name] if name in self.row else self.extra_info.get(name)

    @classmethod
    def unwritten(cls, row: Mapping[str, Any]) -> Completion:
        """What is known of a row's completions before there are any: its columns, but for prompt and ground truth."""
        extra_info = row.get("extra_info")
        plain = {"prompt": "", "reward_model": None, "extra_info": extra_info if isinstance(extra_info, dict) else None}
        return cls.from_row({**row, **plain}, response="", response_tokens=0)

    @classmethod
    def from_row(
        cls,
        row: Mapping[str, Any],
        *,
        response: str,
        response_tokens: int,
        reference_tokens: float | None = None,
        finished: bool = True,
        token_ids: Sequence[int] | None = None,
        moment: Moment = Moment(),
        turns: Sequence[dict[str, Any]] | None = None,
        tool_rewards: Sequence[float] = (),
        weights: Mapping[str, float] | None = None,
    ) -> Completion:
        """A completion of a row of a data set in verl's format (`ctwa.data.rows` says what is wrong with one)."""
        return cls(
            response=response,
            prompt=prompt_text(row["prompt"]),
            ground_truth=(row.get("reward_model") or {}).get("ground_truth"),
            data_source=row.get("data_source") or "",
            extra_info=row.get("extra_info") or {},
            response_tokens=response_tokens,
            reference_tokens=reference_tokens,
            finished=finished,
            row={column: value for column, value in row.items() if column not in NAMED_COLUMNS},
            raw_prompt=row["prompt"],
            token_ids=None if token_ids is None else array("q", token_ids),
            moment=moment,
            turns=None if turns is None else tuple(turns),
            tool_rewards=list(tool_rewards),
            weights=weights,
        )


def prompt_text(prompt: Any) -> str:
    """The text of a prompt: of a list of ``{role, content}`` messages the contents, one a line."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message["content"]) for message in prompt)
