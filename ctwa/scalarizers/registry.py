"""The scalarizers by name, and the configuration that chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctwa.aggregators.registry import GRADIENT_METHODS
from ctwa.errors import CtwaError, did_you_mean
from ctwa.method_info import Options, one_of
from ctwa.scalarizers.base import Scalarizer
from ctwa.scalarizers.cgpo import Cgpo
from ctwa.scalarizers.ctwa import CTWA
from ctwa.scalarizers.dvao import Dvao
from ctwa.scalarizers.gd2po import Gd2po
from ctwa.scalarizers.gdpo import Gdpo
from ctwa.scalarizers.gradient import GradientMethod
from ctwa.scalarizers.guard import Guard
from ctwa.scalarizers.hypervolume import Hypervolume
from ctwa.scalarizers.lagrangian import Lagrangian
from ctwa.scalarizers.linear import Linear
from ctwa.scalarizers.pama import Pama
from ctwa.scalarizers.probe import Probe
from ctwa.scalarizers.product import Product
from ctwa.scalarizers.rdpo import Rdpo
from ctwa.scalarizers.rvpo import Rvpo
from ctwa.scalarizers.saw import Saw
from ctwa.scalarizers.schedule import Schedule
from ctwa.scalarizers.smooth_tchebycheff import SmoothTchebycheff
from ctwa.scalarizers.tchebycheff import Tchebycheff
from ctwa.strict import validated

ALL: tuple[type[Scalarizer], ...] = (
    Linear,
    Product,
    Guard,
    Schedule,
    CTWA,
    Probe,
    Tchebycheff,
    SmoothTchebycheff,
    Hypervolume,
    Lagrangian,
    Cgpo,
    Pama,
    Gdpo,
    Gd2po,
    Rvpo,
    Saw,
    Dvao,
    Rdpo,
)

SCALARIZERS = {method.info.name: method for method in ALL}

METHODS: dict[str, Any] = {**SCALARIZERS, **GRADIENT_METHODS}
"""The methods of `ctwa train`: scalarizers, and the aggregators that a ``GradientMethod`` combines gradients with."""

if TYPE_CHECKING:
    MethodConfig = Options
else:
    MethodConfig = one_of(method.info.config for method in METHODS.values())


def method_options(name: str, **options: Any) -> MethodConfig:
    """The options of a method by its name, with the defaults of those that are not given.

    Args:
        name: the method, as in ``METHODS`` and ``ctwa methods``.
        options: what ``ctwa methods NAME`` lists.

    Raises:
        CtwaError: there is no such method or option, or an option is out of its bounds.
    """
    if name not in METHODS:
        raise CtwaError(
            f"there is no method {name!r}{did_you_mean(name, METHODS) or f'; write one of {list(METHODS)}'}"
        )
    return validated(METHODS[name].info.config, options, under=f"method {name}")


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
    method = SCALARIZERS.get(config.type, GradientMethod)
    own = {"targets": targets or {}} if method.takes_targets else {}
    return method(config.fitted(scale_invariant=scale_invariant), weights, **own)
