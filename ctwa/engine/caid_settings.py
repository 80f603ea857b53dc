"""Our part of the configuration of `ctwa caid`, validated before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from omegaconf import DictConfig
from pydantic import BeforeValidator, Field

from ctwa.engine.checks.batches import check_token_budgets
from ctwa.engine.checks.config import check_settings, check_what_is_named
from ctwa.engine.checks.look import look
from ctwa.engine.checks.pairs import fit_micro_batches
from ctwa.engine.checks.turns import has_turns
from ctwa.engine.data import RunData, read_run_data
from ctwa.engine.settings import DiagnosticSettings, ModelSource, Settings, read_settings
from ctwa.errors import CtwaError
from ctwa.models.look import look_at_model
from ctwa.models.source import Source
from ctwa.preference.caid import CaidConfig
from ctwa.strict import changes

REWARD = "reward"
"""The trace's name of the weighted sum of all that is no constraint."""


_OF_SOME_ROWS = ("applies_to", "none", "split", "every")


class CaidSettings(Settings):
    """The ``ctwa`` node of the config: that of ``ctwa train``, and what the iterations want.

    The objectives that ``caid.thresholds`` names are constraints; the reward is the weighted sum of the others.

    Attributes:
        caid: thresholds, beta, iterations.
        policies: by objective, a pre-aligned policy whose implicit reward it is (PeCAID), in place of its reward
            function: a model folder, a run's, or a name on the hub.
        implicit_scale: of those rewards: with beta as in the paper, or without as in the published code.
        pairs_per_prompt: pairs of samples that are compared.
        steps_per_iteration: optimizer steps on them.
        labels: ``soft`` trains on the probability that the first response is preferred, ``drawn`` on a label that is
            drawn from it once an iteration.
    """

    caid: CaidConfig
    diagnostics: DiagnosticSettings = DiagnosticSettings(covariance="none")
    policies: Annotated[dict[str, ModelSource], BeforeValidator(lambda given: given or {})] = Field(
        default=None, validate_default=True
    )
    implicit_scale: Literal["paper", "published-code"] = "paper"
    pairs_per_prompt: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    steps_per_iteration: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    labels: Literal["soft", "drawn"] = "soft"

    def idle(self) -> Mapping[str, str]:
        """Reward functions have a scale of their own."""
        return {} if self.policies else {"implicit_scale": "no ctwa.policies"}

    @property
    def names(self) -> list[str]:
        """Everything that scores a response: reward functions, and pre-aligned policies."""
        return [*self.objectives, *(name for name in self.policies if name not in self.objectives)]

    @property
    def reward_weights(self) -> dict[str, float]:
        """The weights of what makes up the reward: all but the constraints; 1 for a policy that is not an objective."""
        weights = {name: self.objectives[name].weight if name in self.objectives else 1.0 for name in self.names}
        return {name: weight for name, weight in weights.items() if name not in self.caid.thresholds}


def read_caid_settings(config: DictConfig, data: RunData | None = None) -> CaidSettings:
    """Validate our part of a resolved config, and all that can be known from the config and the disk.

    Args:
        config: the resolved config.
        data: the rows, where they have been read.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    settings = check_caid_settings(config)
    check_what_is_named(config, settings)
    look(config, settings, data or read_run_data(config))
    for name, policy in settings.policies.items():
        look_at_model(Source(policy, f"ctwa.policies.{name}"))
    return settings


def check_caid_settings(config: DictConfig) -> CaidSettings:
    """Validate our part of a resolved config, and what can be known of `ctwa caid` from the config alone.

    Micro-batches are fitted to the batch.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    if config.data.validation_share is not None:
        raise CtwaError(
            "data.validation_share: `ctwa caid` samples the prompts of data.val_files, and validates on no others; "
            "leave it out"
        )
    settings = read_settings(config, CaidSettings)
    if REWARD in settings.names:
        raise CtwaError(f"{REWARD!r} is the weighted sum in the trace of ctwa caid: give that objective another name")
    _refuse_what_train_alone_does(config, settings)
    _check_thresholds(settings)
    _check_pairs(config, settings)
    check_settings(config, settings)
    fit_micro_batches(config, config.data.train_batch_size, 1)
    return settings


def _refuse_what_train_alone_does(config: DictConfig, settings: CaidSettings) -> None:
    if settings.rewards.standardise != "none":
        raise CtwaError(
            f"ctwa.rewards.standardise={settings.rewards.standardise}: thresholds are in the units of the rewards, "
            "which ctwa caid therefore leaves as they are; write none"
        )
    for name, its_own in (("gradients", settings.gradients), ("diagnostics", settings.diagnostics)):
        unchanged = CaidSettings.model_fields[name].get_default(call_default_factory=True)
        if its_own != unchanged:
            key = next(iter(changes(its_own)))
            raise CtwaError(f"ctwa.{name}.{key}: ctwa caid measures no gradients and no covariances; leave it out")
    if settings.method.type != "linear":
        raise CtwaError(f"method={settings.method.type}: ctwa caid is a method itself; leave it out")
    if settings.dynamic_sampling.keep != "every":
        raise CtwaError(
            f"ctwa.dynamic_sampling.keep={settings.dynamic_sampling.keep}: ctwa caid samples all prompts at once, and "
            "its thresholds are on the mean of all; write every"
        )
    if settings.conditioning.is_on:
        raise CtwaError(
            "ctwa.conditioning.concentration: the reward of ctwa caid has one weight for each objective, and its "
            "thresholds are on the mean of all prompts; write null"
        )
    if config.algorithm.use_kl_in_reward:
        raise CtwaError(
            "algorithm.use_kl_in_reward=true: ctwa caid has no rewards of tokens, and a beta of its own that holds the "
            "policy near its reference; write false"
        )
    if settings.from_log_probs:
        raise CtwaError(
            f"ctwa.objectives.{next(iter(settings.from_log_probs))} is read off the log-probabilities of a step of "
            "ctwa train, and ctwa caid has none; leave it out"
        )
    if settings.curriculum.is_on:
        raise CtwaError("ctwa.curriculum: ctwa caid samples every prompt in every round; leave it out")


def _check_thresholds(settings: CaidSettings) -> None:
    """Refuse thresholds of nothing or of everything, and means that are not of all prompts."""
    if unknown := sorted(settings.caid.thresholds.keys() - set(settings.names)):
        raise CtwaError(f"ctwa.caid.thresholds names {unknown}, which score nothing; write some of {settings.names}")
    for name in sorted(settings.caid.thresholds.keys() & settings.objectives.keys() - settings.policies.keys()):
        objective = settings.objectives[name]
        if objective.transform == "rank" and objective.gate is None:
            raise CtwaError(
                f"ctwa.objectives.{name}.transform=rank: ctwa.caid.thresholds hold the mean of '{name}' above the "
                "reference's, and of ranks within a prompt both are .5: write sigmoid, or no transform"
            )
    if not any(settings.reward_weights.values()):
        raise CtwaError(
            f"ctwa.caid.thresholds names all of {settings.names} (or the others have no weight): leave one out, which "
            "is the reward"
        )
    for name, objective in settings.objectives.items():
        if own := [key for key in _OF_SOME_ROWS if key in objective.model_fields_set]:
            raise CtwaError(
                f"ctwa.objectives.{name}.{own[0]}: ctwa caid asks every objective about every prompt, for its "
                "thresholds are on the mean of all: leave it out, and give prompts that all objectives apply to"
            )


def _check_pairs(config: DictConfig, settings: CaidSettings) -> None:
    """Refuse more pairs than samples make, and pairs that the trainer cannot take."""
    num_samples = config.actor_rollout_ref.rollout.val_kwargs.n
    possible = num_samples * (num_samples - 1) // 2
    if settings.pairs_per_prompt > possible:
        raise CtwaError(
            f"ctwa.pairs_per_prompt={settings.pairs_per_prompt}, but {num_samples} samples of a prompt make "
            f"{possible} pairs: write less, or more samples (actor_rollout_ref.rollout.val_kwargs.n)"
        )
    if has_turns(config):
        raise CtwaError(
            "actor_rollout_ref.rollout.multi_turn.enable=true: ctwa caid makes pairs of completions, all of whose "
            "tokens are the policy's; write false"
        )
    longest = config.data.max_prompt_length + config.data.max_response_length  # two of which are a pair
    check_token_budgets(config, 2 * longest, "2 x (data.max_prompt_length + data.max_response_length)")
