"""The covariance law of policy-gradient updates: statistics, feasibility, clipping, and the examples that show it."""

from ctwa.covariance.diagnostics import diagnostics
from ctwa.covariance.distortion import Distortion, clipping_distortion, covariance_bound, safe_distortion
from ctwa.covariance.feasibility import Feasibility, reward_covariance, target_feasibility, weighted_covariance
from ctwa.covariance.probe import Agreement, Progress, backward_probe, forward_probe, mean_rewards
from ctwa.covariance.weights import CompletionWeights, TokenWeights, completion_weights, token_weights, update_weights
from ctwa.covariance.within_prompt import WithinPrompt, within_prompt_covariance

__all__ = [
    "Agreement",
    "CompletionWeights",
    "Distortion",
    "Feasibility",
    "Progress",
    "TokenWeights",
    "WithinPrompt",
    "backward_probe",
    "clipping_distortion",
    "completion_weights",
    "covariance_bound",
    "diagnostics",
    "forward_probe",
    "mean_rewards",
    "reward_covariance",
    "safe_distortion",
    "target_feasibility",
    "token_weights",
    "update_weights",
    "weighted_covariance",
    "within_prompt_covariance",
]
