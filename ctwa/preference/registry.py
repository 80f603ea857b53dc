"""The losses and the methods of `ctwa prefer` by name, and the configuration that chooses a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctwa.aggregators.registry import AGGREGATORS
from ctwa.method_info import one_of
from ctwa.preference.hinge import HingeLoss
from ctwa.preference.losses import CpoLoss, DpoLoss, IpoLoss, PreferenceLoss, SimpoLoss

LOSSES: dict[str, type[PreferenceLoss]] = {
    loss.model_fields["type"].default: loss
    for loss in (
        DpoLoss,
        IpoLoss,
        CpoLoss,
        SimpoLoss,
        HingeLoss,
    )
}

PREFERENCE_METHODS = {method.preference_name or name: method for name, method in AGGREGATORS.items()}

if TYPE_CHECKING:
    PreferenceLossConfig = PreferenceLoss
else:
    PreferenceLossConfig = one_of(LOSSES.values())
