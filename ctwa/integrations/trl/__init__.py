"""The methods inside TRL's GRPOTrainer: docs/trl.md.

from ctwa.integrations.trl import MultiObjectiveGRPOTrainer
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ctwa.errors import CtwaError
from ctwa.integrations.trl.contract import unknown_version

if TYPE_CHECKING:
    from ctwa.integrations.trl.trainer import MultiObjectiveGRPOTrainer

__all__ = ["MultiObjectiveGRPOTrainer"]


def __getattr__(name: str) -> Any:
    """The trainer, whose module imports TRL; all else here does without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("trl") is None:
        raise CtwaError("TRL is not installed: pip install 'ctwa[trl]', in an environment without verl (docs/trl.md)")
    try:
        from ctwa.integrations.trl import trainer
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "trl":
            raise
        raise unknown_version(str(error)) from error
    return getattr(trainer, name)
