"""`ctwa doctor`: what would make a run fail, before it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ctwa.doctor.environment import environment, hub
from ctwa.doctor.findings import Finding, Needs
from ctwa.doctor.machine import machine
from ctwa.doctor.software import software
from ctwa.errors import CtwaError

if TYPE_CHECKING:
    from omegaconf import DictConfig

ANY_RUN = ("task=custom", "ctwa.run=runs", "data.train_files=-", "data.val_files=-", "actor_rollout_ref.model.path=-")
"""What a run's configuration needs and the machine is not asked for."""


def examine(arguments: Sequence[str], *, ask_hub: bool = False) -> list[Finding]:
    """Look at machine, software and environment; and with settings of a run at all that its dry run looks at.

    Args:
        arguments: of `ctwa train`; an engine alone is no run yet.
        ask_hub: whether to ask the hub.

    Raises:
        CtwaError: arguments that make no configuration.
    """
    is_run = any(not each.startswith("engine=") for each in arguments)
    config = _config(arguments if is_run else [*ANY_RUN, *arguments]) if _has_engine() else None
    needs = Needs() if config is None else needs_of(config)
    findings = [
        *machine(needs),
        *software(needs, engine=bool(arguments)),
        *environment(needs, os.environ, Path.cwd()),
        *([hub(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))] if ask_hub else []),
    ]
    if config is not None:
        findings += [*_resources(config), *(_dry_run(config) if is_run else ())]
    return findings


def _has_engine() -> bool:
    return all(find_spec(name) is not None for name in ("hydra", "omegaconf", "verl"))


def _config(arguments: Sequence[str]) -> DictConfig:
    from ctwa.engine.compose import compose_config

    return compose_config(arguments)


def needs_of(config: DictConfig) -> Needs:
    """What a run of `ctwa train` with this configuration needs of the machine."""
    from ctwa.engine.checks.resources import uses_flash_attention, uses_vllm

    return Needs(config.trainer.device, uses_vllm(config), uses_flash_attention(config), config.ctwa.run)


def _resources(config: DictConfig) -> Iterator[Finding]:
    from ctwa.engine.checks.resources import check_machine

    try:
        check_machine(config)
    except CtwaError as error:
        yield Finding("resources", "fail", str(error))
    else:
        yield Finding("resources", "ok", "the ranks find what they ask Ray for")


def _dry_run(config: DictConfig) -> Iterator[Finding]:
    """What `ctwa train --dry-run` would say."""
    from ctwa.engine.job import set_environment
    from ctwa.engine.train_job import TrainJob

    set_environment(config)
    try:
        TrainJob(config)
    except CtwaError as error:
        yield Finding("settings", "fail", str(error))
    else:
        yield Finding("settings", "ok", "the run passes the checks of a dry run")
