"""What is checked before anything expensive starts, in its order.

The cheapest first: a path that is wrong is told without verl, whose import takes seconds.
"""

from __future__ import annotations

import math

from omegaconf import DictConfig

from ctwa.engine.checks.applies import check_applies_to
from ctwa.engine.checks.batches import check_batches, check_groups_of_ranks
from ctwa.engine.checks.conditioning import check_conditioning
from ctwa.engine.checks.curriculum import check_curriculum
from ctwa.engine.checks.engine import (
    check_correction,
    check_engine,
    check_old_log_probs,
    check_optimizer,
    check_queue,
    check_what_is_imported,
)
from ctwa.engine.checks.folders import check_folders
from ctwa.engine.checks.gradients import check_gradients, check_probe
from ctwa.engine.checks.idle import check_idle
from ctwa.engine.checks.log_probs import check_log_probs
from ctwa.engine.checks.look import look
from ctwa.engine.checks.loss import check_kl_in_reward, check_loss
from ctwa.engine.checks.turns import check_loop, check_turns
from ctwa.engine.checks.units import check_units
from ctwa.engine.data import RunData, read_run_data
from ctwa.engine.settings import Settings, read_settings
from ctwa.errors import CtwaError
from ctwa.objectives.loading import resolve_spec


def check_config(config: DictConfig, data: RunData | None = None) -> Settings:
    """Check all that can be known from the config and the disk.

    Args:
        config: the resolved config.
        data: the rows, where `check_disk` has read them.
    """
    data = data or check_disk(config)
    settings = check_train_settings(config)
    check_what_is_named(config, settings)
    _check_steps(config, data)
    check_applies_to(settings, data)
    check_curriculum(config, settings, data)
    look(config, settings, data)
    _check_steps(config, data)  # without the rows that the model's chat template refuses
    return settings


def check_train_settings(config: DictConfig) -> Settings:
    """Check all that can be known of `ctwa train` from the config alone."""
    settings: Settings = read_settings(config)
    check_settings(config, settings)
    check_old_log_probs(config)
    return settings


def check_settings(config: DictConfig, settings: Settings) -> None:
    """Check all that can be known from the config alone, as `ctwa plan` does: neither files nor machine are there."""
    check_kl_in_reward(config, settings)  # of which an estimator that does not standardise is but a consequence
    scalarizer = settings.build_scalarizer()  # names in weights and targets, estimator against method
    check_units(settings, scalarizer)
    if scalarizer.has_zero and settings.from_log_probs:
        raise CtwaError(
            f"the method {settings.method.type} goes by a reward's zero, and {', '.join(settings.from_log_probs)} "
            "(read off log-probabilities) may lie on either side of it: write another method, e.g. lagrangian"
        )
    check_loss(config, settings, scalarizer.requirements)
    check_log_probs(settings, scalarizer)
    check_conditioning(settings, scalarizer)
    check_batches(config)
    check_groups_of_ranks(config)
    check_engine(config)
    check_optimizer(config)
    check_queue(config)
    check_correction(config)
    check_turns(config)
    check_idle(config, settings, scalarizer)
    check_gradients(config, settings, scalarizer)
    check_probe(config, settings, scalarizer.requirements)
    reference = settings.reference_length
    if reference is not None and reference.needs_validation and not config.trainer.val_before_train:
        raise CtwaError(
            "ctwa.reference_length takes its length from the validation before the first step, which is off: write "
            "trainer.val_before_train=true, or give the length as a number"
        )


def check_what_is_named(config: DictConfig, settings: Settings) -> None:
    """See that the files and modules are here which the config names: of rewards, of agent loops and tools, others'."""
    for objective in settings.objectives.values():
        resolve_spec(objective.reward_fn)  # the file is there; whether the function is, its worker says
    check_what_is_imported(config)
    check_loop(config)


def check_disk(config: DictConfig) -> RunData:
    """Check what a command that samples and scores needs of the disk: the folders, and the rows of the data."""
    check_folders(config)
    return read_run_data(config)


def num_steps(config: DictConfig, data: RunData) -> int:
    """The steps of the run: as configured, else what the epochs make (fewer where overlong prompts are left out)."""
    steps: int | None = config.trainer.total_training_steps
    return _steps_of_epochs(config, data) if steps is None else steps


def _steps_of_epochs(config: DictConfig, data: RunData) -> int:
    return _num_rows(config, data) // config.data.train_batch_size * config.trainer.total_epochs


def _num_rows(config: DictConfig, data: RunData) -> int:
    rows = data.train.num_rows
    return min(rows, config.data.train_max_samples) if config.data.train_max_samples > 0 else rows


def _check_steps(config: DictConfig, data: RunData) -> None:
    rows, prompts, epochs = _num_rows(config, data), config.data.train_batch_size, config.trainer.total_epochs
    if rows < prompts <= data.train.num_rows:
        raise CtwaError(
            f"data.train_max_samples={rows} are less than one step's data.train_batch_size={prompts}: write at least "
            f"{prompts}, or -1 for all {data.train.num_rows} rows"
        )
    if rows < prompts:
        raise CtwaError(
            f"data.train_files have {rows} rows, less than one step's data.train_batch_size={prompts}: "
            f"write at most {rows}"
        )
    wanted, most = num_steps(config, data), _steps_of_epochs(config, data)
    if wanted > most:
        raise CtwaError(
            f"trainer.total_training_steps={wanted}, but trainer.total_epochs={epochs} of {rows} rows in batches of "
            f"{prompts} end after {most}: write trainer.total_epochs={math.ceil(wanted / (rows // prompts))}"
        )
