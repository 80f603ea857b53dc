"""The length that conciseness is measured against: fixed, the mean of the prompt's group, or a running mean.

A mean over batches never includes the current one: a reference that moves with what it judges judges nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ctwa.errors import CtwaError
from ctwa.strict import StrictModel


class FixedReferenceConfig(StrictModel):
    """The same length all through training.

    Attributes:
        tokens: the length; without it, the mean length of the base model's completions in the validation at step 0.
    """

    type: Literal["fixed"] = "fixed"
    tokens: float | None = Field(default=None, gt=0)

    @property
    def needs_validation(self) -> bool:
        """Whether a length is taken from the validation before the first step."""
        return self.tokens is None


class GroupReferenceConfig(StrictModel):
    """The mean length of the completions of the same prompt.

    Attributes:
        alone: the length for a completion that is alone, as in a validation with one completion a prompt; without it,
            the mean length in the validation at step 0.
    """

    type: Literal["group"] = "group"
    alone: float | None = Field(default=None, gt=0)

    @property
    def needs_validation(self) -> bool:
        """Whether a length is taken from the validation before the first step."""
        return self.alone is None


class RunningReferenceConfig(StrictModel):
    """The mean length over the batches before this one.

    Attributes:
        initial: the length for the first batch; without it, the mean length in the validation at step 0.
        window: how many batches the mean goes back; None: all.
    """

    type: Literal["running"] = "running"
    initial: float | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, ge=1)

    @property
    def needs_validation(self) -> bool:
        """Whether a length is taken from the validation before the first step."""
        return self.initial is None


ReferenceConfig = Annotated[
    FixedReferenceConfig | GroupReferenceConfig | RunningReferenceConfig, Field(discriminator="type")
]


class ReferenceLength(ABC):
    """Where a completion's ``reference_tokens`` come from. Lengths are numbers of response tokens, EOS included."""

    type: ClassVar[str]

    def start(self, lengths: Sequence[int]) -> None:
        """Take the lengths of the base model's completions, from the validation before the first step."""
        if lengths:
            self._start(sum(lengths) / len(lengths))

    def reference(self, lengths: Sequence[int], group_N: Sequence[int]) -> list[float | None]:
        """The reference length of each of N completions, None where there is none.

        Args:
            lengths: N lengths.
            group_N: the prompt each belongs to.

        Raises:
            CtwaError: no length has been given or seen yet.
        """
        return self._reference([int(length) for length in lengths], [int(group) for group in group_N])

    def update(self, lengths: Sequence[int]) -> None:
        """Take the lengths of a training batch, after it was scored."""
        self._update([int(length) for length in lengths])

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers; loading it gives the same references to the last bit."""
        return {"version": 1, "type": self.type, **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state into a newly built strategy; a number that the configuration gives outranks the state's.

        Raises:
            CtwaError: the state is of another strategy.
        """
        if state.get("version") != 1 or state.get("type") != self.type:
            raise CtwaError(
                f"the checkpoint's reference length is of type '{state.get('type')}' (version {state.get('version')}), "
                f"the configuration's is '{self.type}' (version 1); resume with the configuration the run began with"
            )
        self._load_state(state)

    @abstractmethod
    def _reference(self, lengths: list[int], groups: list[int]) -> list[float | None]: ...

    def _start(self, mean_length: float) -> None:  # noqa: B027 - not abstract
        """Nothing, unless a strategy has use for it."""

    def _update(self, lengths: list[int]) -> None:  # noqa: B027 - not abstract
        """Nothing, unless a strategy learns."""

    def _state(self) -> dict[str, Any]:
        return {}

    def _load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - not abstract
        """Nothing, unless a strategy has state."""


class FixedReference(ReferenceLength):
    """See FixedReferenceConfig."""

    type = "fixed"

    def __init__(self, config: FixedReferenceConfig) -> None:
        self._tokens = config.tokens

    def _start(self, mean_length: float) -> None:
        if self._tokens is None:
            self._tokens = mean_length

    def _reference(self, lengths: list[int], groups: list[int]) -> list[float | None]:  # noqa: ARG002
        if self._tokens is None:
            raise CtwaError(
                "the reference length is 'fixed' without a number, which comes from the validation before the first "
                "step, and there was none; validate before training, or give tokens: <number>"
            )
        return [self._tokens] * len(lengths)

    def _state(self) -> dict[str, Any]:
        return {"tokens": self._tokens}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._tokens = state["tokens"] if self._tokens is None else self._tokens


class GroupReference(ReferenceLength):
    """See GroupReferenceConfig.

    The mean is over all K completions of the prompt. To be shorter than it is the same as to be shorter than the mean
    of the other K - 1, so leaving the completion itself out would change no 0/1 reward.
    """

    type = "group"

    def __init__(self, config: GroupReferenceConfig) -> None:
        self._alone = config.alone

    def _start(self, mean_length: float) -> None:
        if self._alone is None:
            self._alone = mean_length

    def _reference(self, lengths: list[int], groups: list[int]) -> list[float | None]:
        lengths_by_group: dict[int, list[int]] = {}
        for length, group in zip(lengths, groups, strict=True):
            lengths_by_group.setdefault(group, []).append(length)
        means = {
            group: sum(members) / len(members) if len(members) > 1 else self._alone
            for group, members in lengths_by_group.items()
        }
        return [means[group] for group in groups]

    def _state(self) -> dict[str, Any]:
        return {"alone": self._alone}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._alone = state["alone"] if self._alone is None else self._alone


class RunningReference(ReferenceLength):
    """See RunningReferenceConfig. Sums are whole numbers, so the mean does not depend on where a run was resumed."""

    type = "running"

    def __init__(self, config: RunningReferenceConfig) -> None:
        self._initial = config.initial
        self._window = config.window
        self._batches: list[tuple[int, int]] = []  # sum and number of lengths; a single entry without a window

    def _start(self, mean_length: float) -> None:
        if self._initial is None:
            self._initial = mean_length

    def _reference(self, lengths: list[int], groups: list[int]) -> list[float | None]:  # noqa: ARG002
        if self._batches:
            total, count = (sum(column) for column in zip(*self._batches, strict=True))
            return [total / count] * len(lengths)
        if self._initial is None:
            raise CtwaError(
                "the reference length is 'running' and no batch has been seen; validate before training, or give "
                "initial: <number>"
            )
        return [self._initial] * len(lengths)

    def _update(self, lengths: list[int]) -> None:
        batch = (sum(lengths), len(lengths))
        if self._window is not None:
            self._batches = [*self._batches, batch][-self._window :]
        else:
            total, count = self._batches[0] if self._batches else (0, 0)
            self._batches = [(total + batch[0], count + batch[1])]

    def _state(self) -> dict[str, Any]:
        return {"initial": self._initial, "batches": [list(batch) for batch in self._batches]}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._initial = state["initial"] if self._initial is None else self._initial
        self._batches = [(total, count) for total, count in state["batches"]]


def build_reference(config: ReferenceConfig) -> ReferenceLength:
    """The strategy a configuration names."""
    match config:
        case FixedReferenceConfig():
            return FixedReference(config)
        case GroupReferenceConfig():
            return GroupReference(config)
        case RunningReferenceConfig():
            return RunningReference(config)
