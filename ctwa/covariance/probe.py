"""What one policy step did to each objective, measured on completions of prompts that the step was not trained on.

With y sampled from the old policy, ``E_old[p_new(y) / p_old(y)] = 1``, so what the step did to a reward is the
covariance ``E_new[r] - E_old[r] = Cov_old(r, p_new / p_old)``; with y sampled from the new policy it is
``Cov_new(r, 1 - p_old / p_new)``. Both hold for a step of any size, and the sample covariance (ddof 1) among the
completions of one prompt is an unbiased estimate of either. CTWA's own statistic (``diagnostics``) stands for the same
change, to first order and for a step along the natural gradient, which an optimizer's step is not.

The probability is that of the whole response: log-probabilities are summed over its tokens, not averaged. They must be
those of the distribution the completions were drawn from: at the same temperature, without top-p or top-k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.arguments import check_field, check_tensor
from ctwa.covariance.diagnostics import finite
from ctwa.covariance.within_prompt import within_prompt_covariance
from ctwa.errors import CtwaError
from ctwa.state import Stateful

LOG_RATIO_CLIP = 3.0
"""Of a completion, either way: bounds its influence. The estimate is unbiased where nothing is beyond it."""


@dataclass(frozen=True)
class Progress:
    """The measured effect of one policy step.

    Attributes:
        names: the M objectives.
        gain_M: float64, the estimated change of each objective's expected reward; NaN where it could not be measured.
        standard_error_M: float64, of the gain, from its spread over prompts; NaN with fewer than two of them.
        num_prompts: the prompts that took part, for one objective or more.
        clipped_fraction: the share of completions whose log-ratio was beyond its bound; above 0 the gain is biased.

    Raises:
        CtwaError: there is not one gain and one standard error a name.
    """

    names: tuple[str, ...]
    gain_M: Tensor
    standard_error_M: Tensor
    num_prompts: int
    clipped_fraction: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gain_M", "standard_error_M"):
            check_field(self, name, M=len(self.names))

    def select(self, names: Sequence[str]) -> Progress:
        """The same with the objectives in the order of ``names``. Raises CtwaError where they are not the same ones."""
        if sorted(names) != sorted(self.names):
            raise CtwaError(
                f"the probe measured {sorted(self.names)} but the objectives are {sorted(names)}; "
                "measure the same objectives"
            )
        order_M = [self.names.index(name) for name in names]
        return replace(
            self, names=tuple(names), gain_M=self.gain_M[order_M], standard_error_M=self.standard_error_M[order_M]
        )

    def metrics(self) -> dict[str, float]:
        """``probe/{gain,standard_error}/<name>`` where measured, ``probe/num_prompts``, ``probe/clipped_fraction``."""
        metrics = {"probe/num_prompts": float(self.num_prompts), "probe/clipped_fraction": self.clipped_fraction}
        for column, name in enumerate(self.names):
            metrics[key_of.probe_gain(name)] = float(self.gain_M[column])
            metrics[key_of.probe_error(name)] = float(self.standard_error_M[column])
        return finite(metrics)


def backward_probe(
    rewards_NM: Tensor,
    scored_NM: Tensor,
    log_probs_now_NT: Tensor,
    log_probs_before_NT: Tensor,
    mask_NT: Tensor,
    group_N: Tensor,
    *,
    names: Sequence[str],
) -> Progress:
    """What the last step did, from new prompts' completions, sampled after it: ``Cov(r, 1 - p_before / p_now)``.

    Args:
        rewards_NM: the rewards.
        scored_NM: bool, what of the rewards was scored; other entries have no influence.
        log_probs_now_NT: under the policy after the step, which sampled the batch.
        log_probs_before_NT: of the same tokens under the policy before the step.
        mask_NT: 1 (or True) on response tokens; what stands elsewhere, NaN included, has no influence.
        group_N: int64, the prompt of each row; the completions of a prompt must all be there.
        names: the objectives.

    A prompt with fewer than two scored completions of an objective is not usable for it.

    Raises:
        CtwaError: the shapes disagree.
    """
    log_probs = {"log_probs_now_NT": log_probs_now_NT, "log_probs_before_NT": log_probs_before_NT}
    _check(rewards_NM, scored_NM, log_probs, mask_NT, group_N, names)
    log_ratio_NT = log_probs_before_NT.double() - log_probs_now_NT.double()
    return _probe(rewards_NM, scored_NM, log_ratio_NT, mask_NT.bool(), group_N, names, sign=-1)


def forward_probe(
    rewards_NM: Tensor,
    scored_NM: Tensor,
    log_probs_after_NT: Tensor,
    log_probs_before_NT: Tensor,
    mask_NT: Tensor,
    group_N: Tensor,
    *,
    names: Sequence[str],
    rows_N: Tensor | None = None,
) -> Progress:
    """What a step did, from completions that were sampled before it: ``Cov(r, p_after / p_before)``.

    It serves completions held out of the update, with log-probabilities after it, and the later mini-batches of an
    update, with the log-probabilities of their own forward pass: those are of the policy after the earlier
    mini-batches, which were of other prompts.

    Args:
        rewards_NM: the rewards.
        scored_NM: bool, what of the rewards was scored; other entries have no influence.
        log_probs_after_NT: under the policy after the step.
        log_probs_before_NT: under the policy before it, which sampled the batch.
        mask_NT: as in ``backward_probe``.
        group_N: int64, the prompt of each row.
        names: the objectives.
        rows_N: bool, the completions that the step was not trained on; all of them by default. A prompt of which the
            step was trained on some completions is no unseen prompt, and is left out.

    Raises:
        CtwaError: the shapes disagree.
    """
    log_probs = {"log_probs_after_NT": log_probs_after_NT, "log_probs_before_NT": log_probs_before_NT}
    _check(rewards_NM, scored_NM, log_probs, mask_NT, group_N, names)
    log_ratio_NT = log_probs_after_NT.double() - log_probs_before_NT.double()
    mask_NT = mask_NT.bool()
    if rows_N is not None:
        check_tensor("rows_N", rows_N, dtype=torch.bool, N=len(rewards_NM))
        mask_NT = mask_NT & ~torch.isin(group_N, group_N[~rows_N])[:, None]
    return _probe(rewards_NM, scored_NM, log_ratio_NT, mask_NT, group_N, names, sign=1)


def mean_rewards(rewards_NM: Tensor, scored_NM: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """Each objective's mean reward and its standard error, (M,) and (M,): over prompts, each weighing the same.

    Completions of one prompt are no independent observations, so prompts are counted. NaN where there are none (for the
    error, fewer than two).
    """
    _, index_N = torch.unique(group_N, return_inverse=True)
    zeros_GM = rewards_NM.new_zeros(int(index_N.max()) + 1 if len(index_N) else 0, rewards_NM.shape[1]).double()
    sum_GM = zeros_GM.index_add(0, index_N, torch.where(scored_NM, rewards_NM.double(), 0.0))
    # A prompt without a scored completion is 0 / 0: NaN, not usable.
    mean_GM = sum_GM / zeros_GM.index_add(0, index_N, scored_NM.double())
    return mean_GM.nanmean(0), _standard_error(mean_GM)


class Agreement(Stateful):
    """How often the sign of CTWA's covariance agreed with that of the probe, objective by objective, since the start.

    A step counts where both were measured and neither is 0, which has no sign.
    """

    STATE = ("_num_steps", "_num_agreed")

    def __init__(self, names: Sequence[str]) -> None:
        self._num_steps = dict.fromkeys(sorted(names), 0)
        self._num_agreed = dict(self._num_steps)

    def observe(self, covariance: Mapping[str, float], progress: Progress) -> dict[str, float]:
        """Count one step.

        Args:
            covariance: the covariance c of the step, by name; not measured where the name is missing.
            progress: the probe of the same step.

        Returns:
            ``probe/agreement/<name>``: the share so far; left out where no step has counted yet.
        """
        for name, gain in zip(progress.names, progress.gain_M.tolist(), strict=True):
            product = covariance.get(name, math.nan) * gain
            self._num_steps[name] += product != 0 and not math.isnan(product)
            self._num_agreed[name] += product > 0
        return {
            f"probe/agreement/{name}": self._num_agreed[name] / num_steps
            for name, num_steps in self._num_steps.items()
            if num_steps
        }


def _check(
    rewards_NM: Tensor,
    scored_NM: Tensor,
    log_probs: Mapping[str, Tensor],
    mask_NT: Tensor,
    group_N: Tensor,
    names: Sequence[str],
) -> None:
    check_tensor("rewards_NM", rewards_NM, M=len(names))
    num_N = len(rewards_NM)
    check_tensor("scored_NM", scored_NM, dtype=torch.bool, N=num_N, M=len(names))
    check_tensor("mask_NT", mask_NT, N=num_N)
    for name, values_NT in log_probs.items():
        check_tensor(name, values_NT, N=num_N, T=mask_NT.shape[1])
    check_tensor("group_N", group_N, N=num_N)


def _probe(
    rewards_NM: Tensor,
    scored_NM: Tensor,
    log_ratio_NT: Tensor,
    mask_NT: Tensor,
    group_N: Tensor,
    names: Sequence[str],
    *,
    sign: Literal[1, -1],
) -> Progress:
    """``sign Cov(r, ratio)``; a row without a single token under the mask takes no part."""
    valid_N = mask_NT.any(1)
    log_ratio_N = torch.where(mask_NT, log_ratio_NT, 0.0).sum(1)
    ratio_N1 = log_ratio_N.clamp(-LOG_RATIO_CLIP, LOG_RATIO_CLIP).exp()[:, None]
    covariance = within_prompt_covariance(rewards_NM, sign * ratio_N1, scored_NM & valid_N[:, None], group_N, ddof=1)
    return Progress(
        names=tuple(names),
        gain_M=covariance.mean_D,
        # A group that is not finite is a defect that must show, as it does in the mean, and not a group to leave out.
        standard_error_M=torch.where(covariance.mean_D.isnan(), math.nan, _standard_error(covariance.groups_GD)),
        num_prompts=int((~covariance.groups_GD.isnan()).any(1).sum()),
        clipped_fraction=int((log_ratio_N.abs() > LOG_RATIO_CLIP).sum()) / max(int(valid_N.sum()), 1),
    )


def _standard_error(values_GM: Tensor) -> Tensor:
    """The sample standard deviation over the groups that are not NaN, over the root of their number."""
    num_M = (~values_GM.isnan()).sum(0)
    square_sum_M = (values_GM - values_GM.nanmean(0)).square().nansum(0)
    return torch.where(num_M > 1, (square_sum_M / (num_M - 1) / num_M).sqrt(), math.nan)
