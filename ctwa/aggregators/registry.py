"""The aggregators by name, and the configuration that chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ctwa.aggregators.base import Aggregator
from ctwa.aggregators.cagrad import CAGrad
from ctwa.aggregators.cagrad_clip import CAGradClip
from ctwa.aggregators.clamp import Clamp
from ctwa.aggregators.common_descent import CommonDescent
from ctwa.aggregators.dynamic import Dynamic
from ctwa.aggregators.gradnorm import GradNorm
from ctwa.aggregators.linear import FixedWeights
from ctwa.aggregators.mgda import MGDA
from ctwa.aggregators.nash_mtl import NashMTL
from ctwa.aggregators.pcgrad import PCGrad
from ctwa.aggregators.torchjd import TorchJd
from ctwa.aggregators.upgrad import UPGrad
from ctwa.arguments import check_kind
from ctwa.errors import CtwaError
from ctwa.method_info import Options, one_of

ALL: tuple[type[Aggregator], ...] = (
    FixedWeights,
    MGDA,
    GradNorm,
    Dynamic,
    CAGrad,
    CAGradClip,
    Clamp,
    PCGrad,
    UPGrad,
    NashMTL,
    CommonDescent,
    TorchJd,
)

AGGREGATORS = {method.info.name: method for method in ALL}

GRADIENT_METHODS = {name: method for name, method in AGGREGATORS.items() if method.for_rewards}
"""What is a method of reinforcement learning, too."""

if TYPE_CHECKING:
    AggregatorConfig = Options
else:
    AggregatorConfig = one_of(method.info.config for method in AGGREGATORS.values())


def build_aggregator(config: AggregatorConfig, preference: Mapping[str, float]) -> Aggregator:
    """Build the aggregator that a config asks for.

    Args:
        config: a method's config.
        preference: the objectives' weights, by name.

    Raises:
        CtwaError: the config is none of an aggregator, or does not fit the objectives.
    """
    check_kind("the method's config", config, Options, "method_options('NAME', ...)")
    if config.type not in AGGREGATORS:
        raise CtwaError(f"{config.type} weighs no gradients; write a method of {list(AGGREGATORS)}")
    return AGGREGATORS[config.type](config, preference)
