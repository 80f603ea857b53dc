"""The scalarizers by name, and the configuration that chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctwa.aggregators.registry import AGGREGATORS, GRADIENT_METHODS
from ctwa.arguments import check_kind
from ctwa.errors import CtwaError, did_you_mean
from ctwa.method_info import Options, one_of
from ctwa.scalarizers.base import Scalarizer
from ctwa.scalarizers.cgpo import Cgpo
from ctwa.scalarizers.compromise import Compromise
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
    Compromise,
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
        name: the method, as in ``METHODS``, ``AGGREGATORS`` and ``ctwa methods``.
        options: what ``ctwa methods NAME`` lists.

    Raises:
        CtwaError: there is no such method or option, or an option is out of its bounds.
    """
    known = AGGREGATORS | METHODS
    if str(name) not in known:
        raise CtwaError(f"there is no method {name!r}{did_you_mean(name, known) or f'; write one of {list(known)}'}")
    return validated(known[str(name)].info.config, options, under=f"method {name}")


def takes_targets(config: MethodConfig) -> bool:
    """Whether the method that a config asks for steers by covariance targets."""
    return _class_of(config).takes_targets


def build_scalarizer(
    config: MethodConfig,
    weights: Mapping[str, float],
    *,
    scale_invariant: bool,
    targets: Mapping[str, float] | None = None,
) -> Scalarizer:
    """Build the scalarizer that a config asks for.

    Args:
        config: a method's config (``method_options``).
        weights: the objectives' weights, by name.
        scale_invariant: whether the engine's advantage estimator is (``Estimate.scale_invariant``).
        targets: the objectives' covariance targets, by name, for a method that steers by them.

    Raises:
        CtwaError: the config is none, or does not fit the objectives or the estimator; or targets are given to a
            method that does not steer by any.
    """
    check_kind("the method's config", config, Options, "method_options('NAME', ...)")
    check_kind("scale_invariant", scale_invariant, bool, "True or False")
    method = _class_of(config)
    if targets and not method.takes_targets:
        raise CtwaError(f"the method {config.type} steers by no covariance targets: leave targets out")
    own = {"targets": targets or {}} if method.takes_targets else {}
    return method(config.fitted(scale_invariant=scale_invariant), weights, **own)


def _class_of(config: MethodConfig) -> type[Scalarizer]:
    if config.type not in METHODS:
        raise CtwaError(f"{config.type} is no method for rewards; build_aggregator makes it, for gradients of your own")
    return SCALARIZERS.get(config.type, GradientMethod)
