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


class _WithLength(StrictModel):
    """The option that gives a length, and may leave it to the validation at step 0."""

    length_option: ClassVar[str]

    @property
    def length(self) -> float | None:
        """The length that the configuration gives."""
        length: float | None = getattr(self, self.length_option)
        return length

    @property
    def needs_validation(self) -> bool:
        """Whether a length is taken from the validation before the first step."""
        return self.length is None


class FixedReferenceConfig(_WithLength):
    """The same length all through training.

    Attributes:
        tokens: the length; without it, the mean length of the base model's completions in the validation at step 0.
    """

    length_option = "tokens"
    type: Literal["fixed"] = "fixed"
    tokens: float | None = Field(default=None, gt=0)


class GroupReferenceConfig(_WithLength):
    """The mean length of the completions of the same prompt.

    Attributes:
        alone: the length for a completion that is alone, as in a validation with one completion a prompt; without it,
            the mean length in the validation at step 0.
    """

    length_option = "alone"
    type: Literal["group"] = "group"
    alone: float | None = Field(default=None, gt=0)


class RunningReferenceConfig(_WithLength):
    """The mean length over the batches before this one.

    Attributes:
        initial: the length for the first batch; without it, the mean length in the validation at step 0.
        window: how many batches the mean goes back; None: all.
    """

    length_option = "initial"
    type: Literal["running"] = "running"
    initial: float | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, ge=1)


ReferenceConfig = Annotated[
    FixedReferenceConfig | GroupReferenceConfig | RunningReferenceConfig, Field(discriminator="type")
]


class ReferenceLength(ABC):
    """Where a completion's ``reference_tokens`` come from. Lengths are numbers of response tokens, EOS included.

    Args:
        config: the strategy's options.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self._length: float | None = config.length

    def start(self, lengths: Sequence[int]) -> None:
        """Take the lengths of the base model's completions, from the validation before the first step."""
        if lengths and self._length is None:
            self._length = sum(lengths) / len(lengths)

    @property
    def is_known(self) -> bool:
        """Whether there is a length to begin with, from the configuration or from :meth:`start`."""
        return self._length is not None

    @abstractmethod
    def reference(self, lengths: Sequence[int], group_N: Sequence[int]) -> list[float | None]:
        """The reference length of each of N completions, None where there is none.

        Args:
            lengths: N lengths.
            group_N: the prompt each belongs to.

        Raises:
            CtwaError: no length has been given or seen yet.
        """

    def update(self, lengths: Sequence[int]) -> None:
        """Take the lengths of a training batch, after it was scored."""
        del lengths

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers; loading it gives the same references to the last bit."""
        return {"version": 1, "type": self.config.type, self.config.length_option: self._length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state into a newly built strategy; a number that the configuration gives outranks the state's.

        Raises:
            CtwaError: the state is of another strategy.
        """
        if state.get("version") != 1 or state.get("type") != self.config.type:
            raise CtwaError(
                f"the checkpoint's reference length is of type '{state.get('type')}' (version {state.get('version')}), "
                f"the configuration's is '{self.config.type}' (version 1); resume with the configuration the run began "
                "with"
            )
        self._length = state[self.config.length_option] if self._length is None else self._length


class FixedReference(ReferenceLength):
    """See FixedReferenceConfig."""

    def reference(self, lengths: Sequence[int], group_N: Sequence[int]) -> list[float | None]:
        """The one length."""
        del group_N
        if self._length is None:
            raise CtwaError(
                "the reference length is 'fixed' without a number, which comes from the validation before the first "
                "step, and there was none; validate before training, or give tokens: <number>"
            )
        return [self._length] * len(lengths)


class GroupReference(ReferenceLength):
    """See GroupReferenceConfig.

    The mean is over all K completions of the prompt. To be shorter than it is the same as to be shorter than the mean
    of the other K - 1, so leaving the completion itself out would change no 0/1 reward.
    """

    def reference(self, lengths: Sequence[int], group_N: Sequence[int]) -> list[float | None]:
        """The mean of each completion's prompt."""
        lengths_by_group: dict[int, list[int]] = {}
        for length, group in zip(lengths, group_N, strict=True):
            lengths_by_group.setdefault(int(group), []).append(int(length))
        means = {
            group: sum(members) / len(members) if len(members) > 1 else self._length
            for group, members in lengths_by_group.items()
        }
        return [means[int(group)] for group in group_N]


class RunningReference(ReferenceLength):
    """See RunningReferenceConfig. Sums are whole numbers, so the mean does not depend on where a run was resumed."""

    def __init__(self, config: RunningReferenceConfig) -> None:
        super().__init__(config)
        self._batches: list[tuple[int, int]] = []  # sum and number of lengths; a single entry without a window

    def reference(self, lengths: Sequence[int], group_N: Sequence[int]) -> list[float | None]:
        """The mean so far."""
        del group_N
        if self._batches:
            total, count = (sum(column) for column in zip(*self._batches, strict=True))
            return [total / count] * len(lengths)
        if self._length is None:
            raise CtwaError(
                "the reference length is 'running' and no batch has been seen; validate before training, or give "
                "initial: <number>"
            )
        return [self._length] * len(lengths)

    def update(self, lengths: Sequence[int]) -> None:
        """Add the batch; with a window the oldest goes."""
        batch = (sum(map(int, lengths)), len(lengths))
        if self.config.window is not None:
            self._batches = [*self._batches, batch][-self.config.window :]
        else:
            total, count = self._batches[0] if self._batches else (0, 0)
            self._batches = [(total + batch[0], count + batch[1])]

    def state_dict(self) -> dict[str, Any]:
        """And the batches."""
        return super().state_dict() | {"batches": [list(batch) for batch in self._batches]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the batches too. Raises CtwaError as for every strategy."""
        super().load_state_dict(state)
        self._batches = [(total, count) for total, count in state["batches"]]


def build_reference(config: ReferenceConfig) -> ReferenceLength:
    """The strategy a configuration names."""
    kinds: dict[str, type[ReferenceLength]] = {
        "fixed": FixedReference,
        "group": GroupReference,
        "running": RunningReference,
    }
    return kinds[config.type](config)
