"""How often an update goes over its tokens, by the method and how gradients are taken."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from ctwa.engine.settings import Settings
from ctwa.scalarizers.base import Scalarizer


@dataclass(frozen=True)
class UpdatePasses:
    """Passes of one epoch of an update that takes the objectives' gradients, or of a plain one.

    Attributes:
        forwards: of the whole depth.
        backwards: of the whole depth.
        last_layers: blocks that gradients are measured in alone; None where they are taken in all.
        measured_forwards: of a pass that measures in the last blocks.
        measured_backwards: through these blocks.
        num_gradients: of each trained parameter that are kept at once.
    """

    forwards: int = 1
    backwards: int = 1
    last_layers: int | None = None
    measured_forwards: int = 0
    measured_backwards: int = 0
    num_gradients: int = 1


def update_passes(config: DictConfig, settings: Settings, scalarizer: Scalarizer) -> UpdatePasses:
    """Of an update by this method. A diagnostic at every k-th step counts for memory, and not for passes."""
    gradients, num = settings.gradients, len(settings.trained)
    halves = 2 if gradients.gram == "cross_fitted" else 1
    if scalarizer.aggregator is None:
        measures = settings.diagnostics.gradients_every > 0
        return UpdatePasses(num_gradients=(num + 1) * halves if measures and gradients.last_layers is None else 1)
    actor = config.actor_rollout_ref.actor
    # The KL penalty and the entropy bonus are no objective's: they are differentiated once, by themselves.
    is_shared = bool(actor.use_kl_loss or actor.entropy_coeff)
    backwards = num + is_shared
    forwards = 1 if gradients.passes == "shared_forward" else backwards
    if gradients.last_layers is not None:
        return UpdatePasses(last_layers=gradients.last_layers, measured_forwards=forwards, measured_backwards=backwards)
    return UpdatePasses(forwards, backwards, num_gradients=num * halves + is_shared)
