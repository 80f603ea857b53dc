"""The covariance law where prompts share parameters: bandits with linear logits, of which everything can be computed.

The law of ``ctwa.covariance.bandit`` gives every arm a logit of its own and takes natural gradients. Here the arms have
features f, and a step d of the parameters adds ``d . f`` to an arm's logit, whichever prompt it is of. One statistic
says it all, the mean over prompts of a covariance within a prompt, between whatever there is: rewards r, the weights w
of an update, features f.

    the policy gradient of weights w             d = Cov(f, w)
    the change of E[r] in a step d               Cov(r, f) . d, to first order
    the Fisher matrix                            F = Cov(f, f)
    the paper's statistic                        c = Cov(r, w)

In the natural gradient ``d = F^-1 Cov(f, w)`` the change is the covariance of r with that part of w which the features
can express for all prompts at once. It is c where each arm of each prompt has a feature of its own. Where arms or
prompts share features, it need not even have the sign of c:

    >>> r, w = torch.tensor([[[0.0], [1], [0]], [[2], [3], [-5]]], dtype=torch.float64)[:, None]
    >>> features = torch.tensor([[[1.0], [0], [0]]], dtype=torch.float64)  # which tell the first arm from the others
    >>> p = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    >>> step = natural_gradient(p, features, w)
    >>> round(float(covariance(p, r, w)), 3), round(float(covariance(p, r, features) @ step), 3)
    (1.0, -0.333)

Dimensions: B prompts, A arms, F features, X and Y columns. All tensors are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_STD = 1e-12


def after(p_BA: Tensor, features_BAF: Tensor, step_F: Tensor) -> Tensor:
    """The policy after a step of the parameters, (B, A)."""
    return torch.softmax(p_BA.log() + features_BAF @ step_F, dim=1)


def centred(p_BA: Tensor, x_BAX: Tensor) -> Tensor:
    """Columns less their mean under each prompt's policy; of features: the score function, ``grad log p``."""
    return x_BAX - (p_BA[..., None] * x_BAX).sum(1, keepdim=True)


def covariance(p_BA: Tensor, x_BAX: Tensor, y_BAY: Tensor) -> Tensor:
    """The covariances of the columns of x with those of y within a prompt, mean over prompts, (X, Y)."""
    return torch.einsum("ba,bax,bay->xy", p_BA, centred(p_BA, x_BAX), y_BAY) / len(p_BA)


def standardised(p_BA: Tensor, scores_BA: Tensor) -> Tensor:
    """GRPO's advantages of infinitely many completions, (B, A); 0 for a prompt whose scores are all alike."""
    centred_BA = centred(p_BA, scores_BA[..., None])[..., 0]
    std_B1 = (p_BA * centred_BA.square()).sum(1, keepdim=True).sqrt()
    return torch.where(std_B1 > _MIN_STD, centred_BA / std_B1, 0.0)


def policy_gradient(p_BA: Tensor, features_BAF: Tensor, weights_BA1: Tensor) -> Tensor:
    """The gradient of the expected weight in the parameters, (F,)."""
    return covariance(p_BA, features_BAF, weights_BA1)[:, 0]


def natural_gradient(p_BA: Tensor, features_BAF: Tensor, weights_BA1: Tensor) -> Tensor:
    """The natural gradient, (F,); the shortest where the Fisher matrix is singular and there are several."""
    fisher_FF = covariance(p_BA, features_BAF, features_BAF)
    return torch.linalg.pinv(fisher_FF, hermitian=True) @ policy_gradient(p_BA, features_BAF, weights_BA1)
