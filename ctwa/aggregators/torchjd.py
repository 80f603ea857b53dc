"""The weightings of TorchJD (Rey et al. 2024, arXiv 2406.16232) that are functions of the Gram matrix alone.

Nothing of them is ours: docs/methods/torchjd.md says where a method of ctwa differs from the weighting of its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import field_validator
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import has_gradient, unit_scale
from ctwa.errors import CtwaError, did_you_mean
from ctwa.method_info import Options

Weighting = Literal["AlignedMTL", "CAGrad", "DualProj", "FairGrad", "IMTLG", "Krum", "MGDA", "UPGrad"]

UNFIT = {
    **dict.fromkeys(
        ("CRMOGM", "ExcessMTL", "GradVac", "MoDo", "NashMTL", "PCD", "SDMGrad"),
        "keeps a state that no checkpoint would have",
    ),
    **dict.fromkeys(("GradDrop", "PCGrad", "Random"), "draws random numbers that no seed of a run decides"),
    **dict.fromkeys(("ConFIG", "TrimmedMean"), "looks at the gradients themselves, which never leave their shards"),
    **dict.fromkeys(("Constant", "Mean", "Sum"), "looks at no gradient; write method=linear"),
}
"""The others of TorchJD 0.18, each with what is against it."""
OURS = ("pref_vector", "projector")
"""Arguments that are not the user's to give: the preference is, and an object cannot be written."""
COUNTS = ("Krum",)
"""Those that count the gradients, and count one that is zero."""
SCALED = ("FairGrad",)
"""Those whose weights depend on the common scale of the gradients; of the others only thresholds do."""


class TorchJdConfig(Options):
    """The options of TorchJD's weightings.

    Attributes:
        weighting: which one, by the name of its aggregator in TorchJD.
        options: its arguments there, by name, such as ``{c: 0.5}`` of CAGrad.
    """

    type: Literal["torchjd"] = "torchjd"
    weighting: Weighting
    options: dict[str, Any] | None = None

    @field_validator("weighting", mode="before")
    @classmethod
    def _is_of_the_gram_matrix(cls, name: Any) -> Any:
        if isinstance(name, str) and (reason := UNFIT.get(name)):
            raise ValueError(f"TorchJD's {name} {reason}")
        return name


class TorchJd(Aggregator):
    """The weights of a TorchJD weighting.

    The preference goes in where the weighting takes a preference vector (AlignedMTL, DualProj, UPGrad). The others know
    of none, but an objective whose weight is 0 is left out. So is one without a gradient, except where gradients are
    counted (Krum).

    Raises:
        CtwaError: TorchJD, or what the weighting asks for beside it, is not installed; or an option is missing, not
            known, or refused by it.
    """

    info = gradient_level(TorchJdConfig, "a weighting of the library TorchJD", "Rey et al. 2024, arXiv 2406.16232")
    config: TorchJdConfig

    def __init__(self, config: TorchJdConfig, preference: Mapping[str, float]) -> None:
        super().__init__(config, preference)
        self._class = _class_of(config.weighting)
        self._options = config.options or {}
        known = [name for name in inspect.signature(self._class).parameters if name not in OURS]
        key = "the method's option options"
        for name in self._options:
            if name not in known:
                near = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
                raise CtwaError(f"{key}.{name} is no option of TorchJD's {config.weighting}{near}")
        for name, parameter in inspect.signature(self._class).parameters.items():
            if parameter.default is parameter.empty and name not in self._options:
                raise CtwaError(f"{key}.{name} is missing: TorchJD's {config.weighting} has no default for it")
        try:
            self._weigh(torch.eye(len(self.names), dtype=torch.float64), self.preference_M)
        except ImportError as error:
            raise CtwaError(f"{error}; or write a method of ctwa's own (`ctwa methods`)") from error
        except (TypeError, ValueError) as error:
            raise CtwaError(f"{key}: TorchJD's {config.weighting} refuses {self._options} ({error})") from error

    @property
    def goes_by_weights(self) -> bool:  # type: ignore[override]
        """Where the weighting takes a preference vector."""
        return "pref_vector" in inspect.signature(self._class).parameters

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]
        """Where gradients are not counted."""
        return self.config.weighting not in COUNTS

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """TorchJD's weights of the objectives that take part; the last ones where none does."""
        gram_MM = gradients.gram_MM
        takes_part_M = torch.ones_like(self.preference_M, dtype=torch.bool)
        if self.leaves_out:
            takes_part_M = has_gradient(gram_MM)
            if not self.goes_by_weights:
                takes_part_M &= self.preference_M > 0
        index_S = takes_part_M.nonzero()[:, 0]
        if not len(index_S):
            return self.last_weights_M, {}
        weights_M = torch.zeros_like(self.preference_M)
        gram_SS = gram_MM[index_S][:, index_S]
        if self.config.weighting not in SCALED:
            gram_SS = unit_scale(gram_SS)
        weights_M[index_S] = self._weigh(gram_SS, self.preference_M[index_S])
        return weights_M, {}

    def _weigh(self, gram_SS: Tensor, preference_S: Tensor) -> Tensor:
        own = {"pref_vector": preference_S} if self.goes_by_weights else {}
        with torch.no_grad():
            weights_S: Tensor = self._class(**self._options, **own)(gram_SS)
        return weights_S.double()


def _class_of(weighting: str) -> Any:
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise CtwaError("method=torchjd needs the library TorchJD: pip install 'ctwa[torchjd]'") from error
    return getattr(aggregation, f"{weighting}Weighting")
