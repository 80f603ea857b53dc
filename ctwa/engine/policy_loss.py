"""Which policy loss verl is told to train on, and how it weighs a token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from ctwa.errors import CtwaError, did_you_mean
from ctwa.policy_loss import Cispo, DppoKl, DppoTv, Dro, GeoMean, Gpg, Gspo, PolicyLoss, Sapo, Vanilla

NO_CLIP = 1e6
"""A clip range from here on never binds (log-ratios are clamped to 20): the loss is unclipped."""

_MODE = "actor_rollout_ref.actor.policy_loss.loss_mode"
_AGGREGATION = "actor_rollout_ref.actor.loss_agg_mode"

BY_COMPLETION = "seq-mean-token-mean"
"""The aggregation that takes the mean over each completion's tokens first."""

ALWAYS_BY_COMPLETION = ("sapo", "geo_mean")
"""The losses that verl aggregates so whatever the config says."""

SELECTIVE = {
    "clip_cov": "it drops tokens that it draws at random among those of a micro-batch",
    "kl_cov": "it adds a penalty to the tokens of a micro-batch whose log-probability goes most with the advantage",
}
"""The losses that treat a token by what else is in its micro-batch: how they weigh it is known to no one else."""


def read_policy_loss(actor: DictConfig) -> PolicyLoss | None:
    """The policy loss of verl's config, as it will be differentiated; None for one of `SELECTIVE`.

    Raises:
        CtwaError: a loss that is not known, or options that it does not go with.
    """
    mode = actor.policy_loss.get("loss_mode", "vanilla")
    if mode not in _LOSSES and mode not in SELECTIVE:
        raise CtwaError(
            f"{_MODE} is {mode!r}: write one of {', '.join(sorted([*_LOSSES, *SELECTIVE]))}"
            + did_you_mean(mode, [*_LOSSES, *SELECTIVE])
        )
    aggregation = actor.get("loss_agg_mode", "token-mean")
    if mode in ALWAYS_BY_COMPLETION and aggregation != BY_COMPLETION:
        raise CtwaError(
            f"{_MODE}={mode} takes the mean over each completion first, whatever {_AGGREGATION}={aggregation} says: "
            f"write {BY_COMPLETION}, or choose policy_loss={mode}, which does"
        )
    if aggregation == "seq-mean-token-sum-norm" and actor.get("loss_scale_factor") is None:
        raise CtwaError(
            f"{_AGGREGATION}={aggregation} divides by actor_rollout_ref.actor.loss_scale_factor, and with null by the "
            "longest response of each micro-batch: write a number, such as data.max_response_length"
        )
    if mode in SELECTIVE:
        return None
    return _LOSSES[mode](actor, by_completion=aggregation == BY_COMPLETION)


def _bound(value: float) -> float:
    return math.inf if value >= NO_CLIP else value


def _range(actor: DictConfig) -> tuple[float, float]:
    """The clip range: a side that is not given is the common one's."""
    low = actor.clip_ratio if actor.clip_ratio_low is None else actor.clip_ratio_low
    high = actor.clip_ratio if actor.clip_ratio_high is None else actor.clip_ratio_high
    return _bound(low), _bound(high)


def _vanilla(actor: DictConfig, **options: bool) -> PolicyLoss:
    dual = _bound(actor.get("clip_ratio_c", 3.0))
    return Vanilla(*_range(actor), None if math.isinf(dual) else dual, **options)


def _dppo(of: type[DppoTv | DppoKl]) -> Callable[..., PolicyLoss]:
    return lambda actor, **options: of(*_range(actor), _bound(actor.get("clip_ratio_c", 20.0)), **options)


def _clipped(of: type[Gspo | Cispo | GeoMean]) -> Callable[..., PolicyLoss]:
    return lambda actor, **options: of(*_range(actor), **options)


def _dro(actor: DictConfig, **options: bool) -> PolicyLoss:
    beta = actor.policy_loss.get("dro_beta")
    if beta is None or beta <= 0:
        raise CtwaError(
            f"{_MODE}=dro needs a penalty: write actor_rollout_ref.actor.policy_loss.dro_beta, a number above 0"
        )
    return Dro(beta, **options)


_LOSSES: dict[str, Callable[..., PolicyLoss]] = {
    "vanilla": _vanilla,
    "gspo": _clipped(Gspo),
    "cispo": _clipped(Cispo),
    "geo_mean": _clipped(GeoMean),
    "sapo": lambda actor, **options: Sapo(actor.tau_pos, actor.tau_neg, **options),
    "gpg": lambda _, **options: Gpg(**options),
    "dro": _dro,
    "dppo_tv": _dppo(DppoTv),
    "dppo_kl": _dppo(DppoKl),
}


def global_geo_mean(**arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Verl's loss ``geo_mean``, normalised over the mini-batch as its other losses are.

    verl takes the mean over the rows of a micro-batch, and its engine sums micro-batches: what a completion counts for
    would depend on how rows are packed, and on the number of ranks.
    """
    from verl.trainer.ppo.core_algos import compute_policy_loss_geo_mean

    loss, metrics = compute_policy_loss_geo_mean(**arguments)
    batch = arguments["config"].global_batch_info
    return loss * (len(arguments["log_prob"]) / batch["global_batch_size"] * batch["dp_size"]), metrics
