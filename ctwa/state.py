"""State that is declared once: saving and restoring follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctwa.errors import CtwaError, shown


class Stateful:
    """Something that a restart restores to the last bit.

    ``STATE`` names the attributes that this takes; what a class declares adds to what its bases do. A dot leads into an
    attribute. A name that ends in ``_M`` is of a vector over ``names``, or of a list of such vectors, and is saved by
    objective name. Other attributes are plain values, or have a state of their own. The saved key is the attribute's
    name without a leading underscore and without ``_M``.

    Attributes:
        names: the objectives of the vectors, in alphabetical order: all arithmetic is in this order, so that the order
            of the objectives in the config changes no bit.
    """

    STATE: ClassVar[tuple[str, ...]] = ()
    state_of: ClassVar[str] = "state"
    """A noun for it, in messages."""
    names: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What of a saved state has to be as in this run; nothing, if a class does not say."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that a restart needs: plain Python values, keyed by objective name."""
        return self.identity() | {key: self._saved(attrgetter(path)(self)) for key, path in self._declared()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave, to the last bit.

        Raises:
            CtwaError: the state is another method's, another version's, or of other objectives; or it is not whole.
                All is as it was then.
        """
        for owner, attribute, value in self._read(state):
            setattr(owner, attribute, value)

    def _read(self, state: Mapping[str, Any]) -> list[tuple[Any, str, Any]]:
        """What a saved state makes of which attribute of what; nothing is changed.

        Raises:
            CtwaError: as ``load_state_dict``.
        """
        read: list[tuple[Any, str, Any]] = []
        if not isinstance(state, Mapping):
            raise CtwaError(f"the {self.state_of} is {shown(state)}; give what state_dict gave")
        for key, value in self.identity().items():
            if state.get(key) != value:
                raise CtwaError(
                    f"the checkpoint's {self.state_of} has {key} {state.get(key)!r} where this run has {value!r}; "
                    "resume with the config the checkpoint was made with, or start a new run"
                )
        for key, path in self._declared():
            if key not in state:
                raise CtwaError(f"the checkpoint's {self.state_of} has no {key}: it is not whole; restore the file")
            saved = state[key]
            owner_path, _, attribute = path.rpartition(".")
            owner = attrgetter(owner_path)(self) if owner_path else self
            current = getattr(owner, attribute)
            if isinstance(current, Stateful):
                read += current._read(saved)
            elif attribute.endswith("_M"):
                dtype = torch.int64 if key.startswith("num_") else torch.float64
                try:
                    read.append((owner, attribute, self._vectors(saved, dtype)))
                except (KeyError, TypeError, ValueError) as error:
                    raise CtwaError(
                        f"the checkpoint's {self.state_of} has {key} {shown(saved)}, where a number of each of "
                        f"{list(self.names)} is wanted: restore the file"
                    ) from error
            else:
                read.append((owner, attribute, deepcopy(saved)))
        return read

    def by_name(self, values: Mapping[str, float | None], dtype: torch.dtype = torch.float64) -> Tensor:
        """Values by objective name as a vector in the order of ``names``; None becomes NaN."""
        return torch.tensor(
            [math.nan if (value := values[name]) is None else value for name in self.names], dtype=dtype
        )

    def named(self, values_M: Tensor) -> dict[str, Any]:
        """A vector in the order of ``names`` as values by objective name."""
        return dict(zip(self.names, values_M.tolist(), strict=True))

    def _declared(self) -> Iterator[tuple[str, str]]:
        for each in reversed(type(self).__mro__):
            for path in each.__dict__.get("STATE", ()):
                yield path.rpartition(".")[2].lstrip("_").removesuffix("_M"), path

    def _saved(self, value: Any) -> Any:
        if isinstance(value, Stateful):
            return value.state_dict()
        if isinstance(value, Tensor):  # JSON has no NaN
            return {name: None if number != number else number for name, number in self.named(value).items()}
        if isinstance(value, list | tuple):
            return [self._saved(each) for each in value]
        return deepcopy(value)

    def _vectors(self, saved: Any, dtype: torch.dtype) -> Any:
        if isinstance(saved, list):
            return [self._vectors(each, dtype) for each in saved]
        return self.by_name(saved, dtype)
