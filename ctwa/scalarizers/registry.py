"""The scalarizers by name, and the configuration that chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ctwa.aggregators.registry import GRADIENT_METHODS, GradientMethodConfig
from ctwa.scalarizers.base import Scalarizer
from ctwa.scalarizers.ctwa import CTWA, CtwaConfig
from ctwa.scalarizers.gdpo import Gdpo, GdpoConfig
from ctwa.scalarizers.gradient import GradientMethod
from ctwa.scalarizers.hypervolume import Hypervolume, HypervolumeConfig
from ctwa.scalarizers.lagrangian import Lagrangian, LagrangianConfig
from ctwa.scalarizers.linear import Linear, LinearConfig
from ctwa.scalarizers.pama import Pama, PamaConfig
from ctwa.scalarizers.probe import Probe, ProbeConfig
from ctwa.scalarizers.schedule import Schedule, ScheduleConfig
from ctwa.scalarizers.tchebycheff import Tchebycheff, TchebycheffConfig

METHODS: dict[str, Any] = {
    scalarizer.method: scalarizer
    for scalarizer in (
        Linear,
        CTWA,
        Probe,
        Schedule,
        Tchebycheff,
        Lagrangian,
        Hypervolume,
        Pama,
        Gdpo,
    )
}
METHODS |= dict.fromkeys(GRADIENT_METHODS, GradientMethod)

MethodConfig = Annotated[
    LinearConfig
    | CtwaConfig
    | ProbeConfig
    | ScheduleConfig
    | TchebycheffConfig
    | LagrangianConfig
    | HypervolumeConfig
    | PamaConfig
    | GdpoConfig
    | GradientMethodConfig,
    Field(discriminator="type"),
]


def build_scalarizer(
    config: MethodConfig,
    weights: Mapping[str, float],
    *,
    scale_invariant: bool,
    targets: Mapping[str, float] | None = None,
) -> Scalarizer:
    """Build the scalarizer that a config asks for.

    Args:
        config: a method's config.
        weights: the objectives' weights, by name.
        scale_invariant: whether the engine's advantage estimator is (``Estimate.scale_invariant``).
        targets: the objectives' covariance targets, by name, for a method that steers by them; to the others they are
            nothing.

    Raises:
        CtwaError: the config does not fit the objectives or the estimator.
    """
    method = METHODS[config.type]
    own = {"targets": targets or {}} if method.takes_targets else {}
    scalarizer: Scalarizer = method(config, weights, scale_invariant=scale_invariant, **own)
    return scalarizer
