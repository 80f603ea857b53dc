"""How often an update goes over its tokens, by the method and how gradients are taken."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.settings import Settings
from ctwa.gradients.settings import GradientSettings
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
    if scalarizer.aggregator is None:
        measured = num + 1 if settings.diagnostics.gradients_every else 0  # the step's own is measured beside them
        return _plain(gradients, measured)
    actor = config.actor_rollout_ref.actor
    # The KL penalty and the entropy bonus are no objective's: they are differentiated once, by themselves.
    return _several(gradients, num, num_shared=int(bool(actor.use_kl_loss or actor.entropy_coeff)))


def pair_passes(settings: PreferenceSettings) -> UpdatePasses:
    """Of an update on pairs, whose objectives may all have a part in each micro-batch."""
    gradients, num = settings.gradients, len(settings.trained)
    if settings.build_aggregator().has_fixed_weights:
        return _plain(gradients, num if settings.diagnostics.gradients_every else 0)
    return _several(gradients, num)


def passes_text(config: DictConfig, passes: UpdatePasses) -> str:
    """What they are, in words: with gradient checkpointing a backward pass goes forward again."""
    anew = config.actor_rollout_ref.model.enable_gradient_checkpointing
    computed = " (activations computed anew in each backward)" if anew else ""
    whole = f"{passes.forwards} forward and {passes.backwards} backward{computed}"
    if passes.last_layers is None:
        return whole
    measured = f"{passes.measured_forwards} forward and {passes.measured_backwards} backward"
    return f"{measured} through {passes.last_layers} layers, then {whole}"


def _plain(gradients: GradientSettings, num_measured: int) -> UpdatePasses:
    """One pass; and now and then so many gradients are measured."""
    is_whole = num_measured > 0 and gradients.last_layers is None
    return UpdatePasses(num_gradients=num_measured * _halves(gradients) if is_whole else 1)


def _several(gradients: GradientSettings, num_objectives: int, *, num_shared: int = 0) -> UpdatePasses:
    """A gradient of each objective, and one of what they share, if anything."""
    backwards = num_objectives + num_shared
    forwards = 1 if gradients.passes == "shared_forward" else backwards
    if gradients.last_layers is not None:
        return UpdatePasses(last_layers=gradients.last_layers, measured_forwards=forwards, measured_backwards=backwards)
    return UpdatePasses(forwards, backwards, num_gradients=num_objectives * _halves(gradients) + num_shared)


def _halves(gradients: GradientSettings) -> int:
    return 2 if gradients.gram == "cross_fitted" else 1
