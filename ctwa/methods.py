"""The methods for a training loop of one's own: all that another trainer needs, and all that stays as it is.

Rewards go in, advantages or weights come out; afterwards the method is told what the update did. docs/own-loop.md shows
each with an example, and says what of it may change when. What is not in ``__all__`` may change in any release.

Dimensions: N completions, M objectives, T tokens.
"""

from ctwa.aggregators import AGGREGATORS, Aggregator, Solution, build_aggregator
from ctwa.batch import Reward, RewardMatrix, Rollout, Update
from ctwa.covariance import Progress, backward_probe, diagnostics, forward_probe
from ctwa.errors import CtwaError
from ctwa.loop_trace import LoopTrace
from ctwa.method_info import MethodInfo, Options
from ctwa.policy_loss import (
    Cispo,
    DppoKl,
    DppoTv,
    Dro,
    GeoMean,
    Gpg,
    Gspo,
    PolicyLoss,
    Sapo,
    Vanilla,
)
from ctwa.scalarizers import METHODS, Estimate, Requirements, Scalarizer, build_scalarizer, method_options
from ctwa.scalarizers.group_relative import GroupRelative

__all__ = [
    "AGGREGATORS",
    "METHODS",
    "Aggregator",
    "Cispo",
    "CtwaError",
    "DppoKl",
    "DppoTv",
    "Dro",
    "Estimate",
    "GeoMean",
    "Gpg",
    "GroupRelative",
    "Gspo",
    "LoopTrace",
    "MethodInfo",
    "Options",
    "PolicyLoss",
    "Progress",
    "Requirements",
    "Reward",
    "RewardMatrix",
    "Rollout",
    "Sapo",
    "Scalarizer",
    "Solution",
    "Update",
    "Vanilla",
    "backward_probe",
    "build_aggregator",
    "build_scalarizer",
    "diagnostics",
    "forward_probe",
    "method_options",
]
