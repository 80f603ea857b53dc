"""Whether pairs divide over ranks and micro-batches, and gradients can be taken of their losses."""

from __future__ import annotations

from omegaconf import DictConfig, open_dict

from ctwa.engine.checks.batches import check_token_budgets, num_data_ranks
from ctwa.engine.checks.gradients import check_backward_passes
from ctwa.engine.checks.idle import check_idle_gradients, check_threads
from ctwa.engine.prefer_settings import PreferenceSettings, read_preference_settings
from ctwa.errors import CtwaError


def check_pair_settings(config: DictConfig) -> PreferenceSettings:
    """Check all that can be known of `ctwa prefer` from the config alone.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    settings = read_preference_settings(config)
    aggregator, every = settings.build_aggregator(), settings.diagnostics.gradients_every
    if not aggregator.has_fixed_weights or every:
        check_backward_passes(config, settings.gradients)
    if settings.gradients.gram != "plain":
        raise CtwaError(
            "ctwa.gradients.gram=cross_fitted halves the prompts of `ctwa train`: write ctwa.gradients.gram=plain"
        )
    check_idle_gradients(settings.gradients, aggregator, settings.method.type, every=every)
    check_threads(config, settings)
    # The two responses of a pair are in one micro-batch.
    check_token_budgets(config, 2 * settings.max_length, "2 x ctwa.max_length")
    return settings


def fit_micro_batches(config: DictConfig, pairs_per_set: int, num_sets: int) -> None:
    """See that a step's pairs go into ranks and micro-batches; a micro-batch has no more than a rank has.

    Args:
        config: changed where micro-batches are larger.
        pairs_per_set: of each data set, in a step.
        num_sets: data sets.

    Raises:
        CtwaError: what does not divide, and what to write.
    """
    num_ranks, actor = num_data_ranks(config), config.actor_rollout_ref.actor
    if pairs_per_set % num_ranks:
        of_what = "a step" if num_sets == 1 else "a data set in a step"
        raise CtwaError(
            f"{pairs_per_set} pairs of {of_what} do not divide over {num_ranks} ranks: write "
            f"data.train_batch_size={num_ranks * num_sets} or a multiple of it"
        )
    if actor.use_dynamic_bsz:
        return
    per_rank, micro = pairs_per_set * num_sets // num_ranks, actor.ppo_micro_batch_size_per_gpu
    key = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
    if micro is None:
        raise CtwaError(f"{key} has no value: write {per_rank}, a rank's pairs of a step, or a divisor of it")
    if per_rank % min(micro, per_rank):
        raise CtwaError(
            f"a rank's {per_rank} pairs of a step are not a multiple of {key}={micro}: write a divisor of {per_rank}"
        )
    with open_dict(config):
        actor.ppo_micro_batch_size_per_gpu = min(micro, per_rank)
        config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu = min(micro, per_rank)
