"""What a caller of the public interface hands over, refused where it is not what it has to be."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from ctwa.errors import CtwaError, shown

if TYPE_CHECKING:
    import torch


def is_finite(value: object) -> bool:
    """Whether it is a number of Python or numpy, and no NaN or infinity. True and False are numbers."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def is_time(value: object) -> bool:
    """Whether it is a date or a duration of numpy: a duration counts as a number there, as one of its units."""
    return getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M")


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own, and a masked one as None; anything else, and a time, as it is."""
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "tolist")
    return value.tolist() if is_scalar and not is_time(value) else value  # in nanoseconds it would be a plain number


def check_count(name: str, value: object, least: int) -> int:
    """Refuse what is no whole number, or too small a one.

    Returns:
        It, as Python's: one of numpy is none that JSON can hold.

    Raises:
        CtwaError: it is.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise CtwaError(f"{name} is {shown(value)}; pass a whole number, {least} or more")
    return int(value)


def check_kind(name: str, value: object, kind: type | tuple[type, ...], instead: str) -> None:
    """Refuse what is of another type.

    Args:
        name: of the argument.
        value: what was passed.
        kind: the types that will do.
        instead: what to pass, for the message.

    Raises:
        CtwaError: it is of none of them.
    """
    if not isinstance(value, kind):
        passed = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise CtwaError(f"{name} is {passed}; pass {instead}")


def check_tensor(
    name: str, value: object, *, dtype: torch.dtype | None = None, anywhere: bool = False, **sizes: int
) -> torch.Tensor:
    """Refuse what is no tensor of real numbers on the CPU with the dimensions that its name ends in.

    Args:
        name: of the argument, such as ``mask_NT``.
        value: what was passed.
        dtype: what it has to be of; None where that does not matter.
        anywhere: whether it may be on another device.
        sizes: of the dimensions whose size is known, by letter.

    Returns:
        It, without the graph that it was computed by: a method's weights are constants of the loss, and what a method
        remembers would keep the graphs of all steps.

    Raises:
        CtwaError: it is none, or of another shape or type, or elsewhere.
    """
    import torch  # not at the top: weights by name do without

    letters = name.rpartition("_")[2]
    known = " and ".join(f"{letter} = {size}" for letter, size in sizes.items() if letter in letters)
    shape = f"({', '.join(letters)}{',' if len(letters) == 1 else ''})" + (f" with {known}" if known else "")
    if not isinstance(value, torch.Tensor):
        raise CtwaError(f"{name} is of type {type(value).__name__}; pass a tensor {shape}")
    wanted = [sizes.get(letter) for letter in letters]
    fits = value.dim() == len(wanted) and all(
        size in (None, found) for size, found in zip(wanted, value.shape, strict=True)
    )
    if not fits:
        raise CtwaError(f"{name} has the shape {tuple(value.shape)}; pass {shape}")
    if not anywhere and value.device.type != "cpu":
        raise CtwaError(f"{name} is on {value.device}; pass it on the CPU: {name}.cpu()")
    if value.is_complex() or (dtype is not None and value.dtype != dtype):
        wanted_type = str(dtype or "real numbers").removeprefix("torch.")
        raise CtwaError(f"{name} is {value.dtype}; pass {wanted_type}")
    return value.detach()


def check_field(holder: object, name: str, *, dtype: torch.dtype | None = None, **sizes: int) -> None:
    """Have a frozen dataclass hold what `check_tensor` gives of one of its fields."""
    object.__setattr__(holder, name, check_tensor(name, getattr(holder, name), dtype=dtype, anywhere=False, **sizes))
