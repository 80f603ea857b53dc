"""Whether pairs divide over ranks and micro-batches, and gradients can be taken of their losses."""

from __future__ import annotations

from omegaconf import DictConfig, open_dict

from ctwa.engine.checks.batches import check_token_budgets, num_data_ranks
from ctwa.engine.checks.engine import check_optimizer
from ctwa.engine.checks.gradients import check_backward_passes
from ctwa.engine.checks.idle import check_idle_gradients, check_threads
from ctwa.engine.prefer_settings import PreferenceSettings, read_preference_settings
from ctwa.errors import CtwaError
from ctwa.preference.data import data_sets
from ctwa.preference.sampling import pairs_per_set


def check_pair_settings(config: DictConfig) -> PreferenceSettings:
    """Check all that can be known of `ctwa prefer` from the config alone; fit its micro-batches to the batch.

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
    check_optimizer(config)
    # The two responses of a pair are in one micro-batch.
    check_token_budgets(config, 2 * settings.max_length, "2 x ctwa.max_length")
    num_sets = len(data_sets({name: objective.source() for name, objective in settings.objectives.items()}))
    fit_micro_batches(config, pairs_per_set(config.data.train_batch_size, num_sets), num_sets)
    return settings


def check_prompts(config: DictConfig, pairs_per_prompt: int, num_rows: int | None = None) -> int:
    """See that the prompts that `ctwa caid` samples are enough for a standard error, and for the pairs of a step.

    Args:
        config: the resolved config.
        pairs_per_prompt: that are compared.
        num_rows: of the data; None where it is not read, and has as many as are to be sampled.

    Returns:
        How many prompts are sampled.

    Raises:
        CtwaError: they are too few, or their number is not known.
    """
    most, batch = config.data.val_max_samples, config.data.train_batch_size
    known = [each for each in (num_rows, most if most > 0 else None) if each is not None]
    if not known:
        raise CtwaError("data.val_max_samples: a plan reads no data: write how many prompts are sampled")
    num_prompts = min(known)
    if num_prompts < 2:
        raise CtwaError(
            "data.val_files have 1 row, and a slack has a standard error over prompts: give more"
            if num_rows == 1
            else "data.val_max_samples=1: a slack has a standard error over prompts; write 2 or more, better 100"
        )
    if (pairs := num_prompts * pairs_per_prompt) < batch:
        raise CtwaError(
            f"data.train_batch_size={batch}, and {num_prompts} prompts with ctwa.pairs_per_prompt={pairs_per_prompt} "
            f"make {pairs} pairs: write a smaller batch, or more prompts (data.val_max_samples) or pairs"
        )
    return num_prompts


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
