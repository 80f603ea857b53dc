"""Settings that would do nothing beside the method, the engine or the length of the run.

Those that do nothing beside their own neighbours say so themselves (``StrictModel.idle``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctwa.engine.policy_loss import SELECTIVE
from ctwa.errors import CtwaError
from ctwa.gradients.settings import WARM_UP
from ctwa.strict import refuse_idle

if TYPE_CHECKING:
    from ctwa.aggregators.base import Aggregator
    from ctwa.engine.settings import RunSettings, Settings
    from ctwa.gradients.settings import GradientSettings
    from ctwa.scalarizers.base import Scalarizer


def check_idle(config: DictConfig, settings: Settings, scalarizer: Scalarizer) -> None:
    """Refuse what does nothing in this run.

    Raises:
        CtwaError: which key, and beside what.
    """
    check_threads(config, settings)
    shown = settings.diagnostics
    check_idle_gradients(settings.gradients, scalarizer.aggregator, settings.method.type, every=shown.gradients_every)
    idle = {}
    if settings.probe_source(scalarizer.requirements) != "held_out":
        idle["held_out_prompts"] = "a probe that holds none out"
    if shown.covariance == "post_update" != settings.log_probs_source(scalarizer.requirements):
        mode = config.actor_rollout_ref.actor.policy_loss.loss_mode
        by_loss = f"policy_loss.loss_mode={mode}, which has no weight to measure: {SELECTIVE.get(mode)}"
        by_method = "a method or a probe that takes the log-probs of the update itself"
        idle["covariance"] = by_loss if settings.policy_loss is None else by_method
    refuse_idle(shown, idle, "ctwa.diagnostics")
    if all(objective.max_unscored is not None for objective in settings.objectives.values()):
        refuse_idle(settings.rewards, {"max_unscored": "a max_unscored of every objective's own"}, "ctwa.rewards")
    if scalarizer.requirements.validation and config.trainer.test_freq <= 0:
        raise CtwaError(
            f"trainer.test_freq={config.trainer.test_freq}: the method {settings.method.type} goes by the validations "
            "of a run, and there are none; write the number of steps between two"
        )


def check_threads(config: DictConfig, settings: RunSettings) -> None:
    """Refuse threads for ranks that compute elsewhere."""
    if config.trainer.device != "cpu":
        refuse_idle(settings, {"threads": f"trainer.device={config.trainer.device}"}, "ctwa")


def check_idle_gradients(
    gradients: GradientSettings, aggregator: Aggregator | None, method: str, *, every: int
) -> None:
    """Refuse ways to take gradients that nobody takes, and options that want to know their errors.

    Args:
        gradients: how they are to be taken.
        aggregator: of the method; None where it combines none.
        method: its name.
        every: the interval of the diagnostics; 0 for none.
    """
    if aggregator is None or aggregator.has_fixed_weights:
        taken_by_none = f"method={method} and ctwa.diagnostics.gradients_every=0"
        names = ("refresh_every",) if every else type(gradients).model_fields
        refuse_idle(gradients, dict.fromkeys(names, f"method={method}" if every else taken_by_none), "ctwa.gradients")
    elif gradients.gram == "plain":
        refuse_idle(aggregator.config, dict.fromkeys(aggregator.of_errors, "ctwa.gradients.gram=plain"), "ctwa.method")


def remarks(config: DictConfig, settings: Settings, num_steps: int) -> Iterator[str]:
    """What is right for a longer run, and comes into effect at no step of this one: a sentence each."""
    for told in settings.method.unreached(num_steps):
        yield f"ctwa.method.{told}"
    actor = config.actor_rollout_ref.actor
    num_updates = num_steps * (config.data.train_batch_size // actor.ppo_mini_batch_size) * actor.ppo_epochs
    if settings.gradients.metric == "optimizer" and num_updates <= WARM_UP:
        yield (
            f"ctwa.gradients.metric=optimizer: the run has {num_updates} mini-batches, and before "
            f"{WARM_UP} of them Adam knows too little for anything to be measured"
        )
