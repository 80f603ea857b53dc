"""Our part of the configuration, validated before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, Field

from ctwa.engine.policy_loss import read_policy_loss
from ctwa.engine.watchdog import WatchdogSettings
from ctwa.errors import CtwaError, did_you_mean
from ctwa.gradients.settings import GradientSettings
from ctwa.models.locate import locate
from ctwa.objectives.completion import Completion
from ctwa.objectives.conditioning import Conditioning, ConditioningSettings
from ctwa.objectives.config import ObjectiveConfig, Objectives, trained
from ctwa.objectives.curriculum import CurriculumSettings
from ctwa.objectives.log_probs import QUANTITIES, Quantity
from ctwa.objectives.reference import ReferenceConfig, ReferenceLength, build_reference
from ctwa.objectives.shaping import Shaping, Standardise
from ctwa.policy_loss import PolicyLoss
from ctwa.run.alarms import AlarmKind, AlarmLimits
from ctwa.scalarizers.base import Requirements, Scalarizer
from ctwa.scalarizers.registry import MethodConfig, build_scalarizer, takes_targets
from ctwa.strict import StrictModel, validated


class RewardSettings(StrictModel):
    """How reward functions are run.

    Attributes:
        num_workers: processes that run them on each of Ray's nodes; ``auto`` is one a core, and at most 16.
        max_unscored: the share of a batch that an objective may fail to score before the run stops.
        max_memory: GB that each of these processes, and of those that it starts, may take; null is half of the
            machine's. A function that asks for more fails, and its completion is unscored.
        standardise: bring rewards of unlike scale to mean 0 and standard deviation 1 before the method sees them:
            ``batch`` over a step's completions, ``running`` over all of training so far, ``none``.
    """

    num_workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    max_unscored: Annotated[float, Field(ge=0, le=1)] = 0.05
    max_memory: Annotated[float, Field(ge=0.1)] | None = None
    standardise: Standardise = "none"


class RolloutSettings(StrictModel):
    """What may go wrong while prompts are completed.

    Attributes:
        max_missing: the share of a step's (or a validation's) completions that may be lost before the run stops.
    """

    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.05


class DynamicSampling(StrictModel):
    """Which of a step's prompts are trained on: those about which the objectives tell the completions apart.

    Attributes:
        keep: ``every`` prompt; where ``any`` or ``all`` of the objectives vary among its completions; or where those
            that vary have this share of the objectives' weight, a number above 0.
        otherwise: ``drop`` leaves the other prompts out of the loss; ``refill`` completes new ones in their place.
        max_rounds: of new prompts that a step may be refilled from. What is missing then is filled up with prompts
            that are dropped.
    """

    keep: Literal["every", "any", "all"] | Annotated[float, Field(gt=0, le=1, strict=True)] = "every"
    otherwise: Literal["drop", "refill"] = "drop"
    max_rounds: Annotated[int, Field(ge=1, le=100)] = 3

    def idle(self) -> Mapping[str, str]:
        """Of every prompt kept there are no others, and of those that are dropped no rounds."""
        if self.keep == "every":
            return {"otherwise": "keep=every", "max_rounds": "keep=every"}
        return {"max_rounds": "otherwise=drop"} if self.otherwise == "drop" else {}

    @property
    def refills(self) -> bool:
        """Whether prompts are completed in place of those that do not count."""
        return self.keep != "every" and self.otherwise == "refill"

    def described(self) -> str:
        """In words, for a plan."""
        which = {"any": "any objective varies", "all": "all objectives vary"}.get(
            str(self.keep), f"objectives with {self.keep} of the weight vary"
        )
        then = "the others are dropped" if self.otherwise == "drop" else f"refilled in up to {self.max_rounds} rounds"
        return f"kept where {which} among the completions, {then}"


ProbeSource = Literal["none", "backward", "minibatch", "held_out"]


class DiagnosticSettings(StrictModel):
    """What is measured beyond what the method needs.

    Attributes:
        covariance: the log-probs behind the covariance trace where the method itself asks for none; ``in_update`` costs
            no pass.
        gradients_every: norms and cosines of the objectives' gradients at the first mini-batch of every k-th step; 0
            for never.
        probe: measure what each step did to each objective: docs/methods/probe.md says what each source costs.
        held_out_prompts: with ``probe: held_out``, how many of a step's prompts get no gradient.
    """

    covariance: Literal["none", "in_update", "post_update"] = "in_update"
    gradients_every: Annotated[int, Field(ge=0)] = 0
    probe: ProbeSource = "none"
    held_out_prompts: Annotated[int, Field(ge=2)] = 4


class RunSettings(StrictModel):
    """What the ``ctwa`` node of every command has.

    Attributes:
        run: the run's folder; one that holds a run is refused, unless ``resume`` is true.
        resume: continue the run in the folder; without a run in it, start one.
        seed: of data order, initialisation and sampling.
        task_dir: the folder of the task's files.
        gradients: how the objectives' gradients are taken, for methods and diagnostics that look at them.
        alarms: when alarms are raised.
        stop_on: the alarms that end the run, with a checkpoint, as ``--stop-on`` does.
        stop_within: seconds that a signal waits for the current step and its checkpoint.
        watchdog: when a run that waits for what does not come is ended.
        print_every: steps a line on the console.
        threads: of each process that holds a model on the CPU; ``engine=cpu`` chooses them by the model and the cores.
        trust_network: start although Ray or the transfer queue lets in whoever reaches its ports.
        trust_checkpoint: resume from a checkpoint whose files name code that no checkpoint of ctwa does.
    """

    run: str
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    resume: bool = False
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    task_dir: str | None = None
    gradients: GradientSettings = Field(default_factory=GradientSettings)
    alarms: AlarmLimits = Field(default_factory=AlarmLimits)
    stop_on: list[AlarmKind] = Field(default_factory=lambda: ["no-update"])
    stop_within: Annotated[float, Field(gt=0)] = 600.0
    watchdog: WatchdogSettings = Field(default_factory=WatchdogSettings)
    print_every: Annotated[int, Field(ge=1)] = 1
    trust_network: bool = False
    trust_checkpoint: bool = False


class Settings(RunSettings):
    """The ``ctwa`` node of ``ctwa train``.

    Attributes:
        objectives: what is optimised, by name.
        method: how rewards become one update.
        reference_length: the length that conciseness is measured against, by its ``type``.
        rewards: how reward functions are run.
        rollout: what may go wrong while prompts are completed.
        curriculum: which prompts come next.
        dynamic_sampling: which of a step's prompts are trained on.
        conditioning: one policy for many weights, which its prompts tell it.
        max_unknown_tokens: the share of the prompts' tokens that the model's tokenizer may not know.
        diagnostics: what is measured beyond what the method needs.
        num_samples: completions kept a step in samples.jsonl.
        poll_interval: seconds between two looks for finished completions, at the most.
    """

    objectives: Objectives = Field(default_factory=dict, validate_default=True)
    method: MethodConfig
    reference_length: ReferenceConfig | None = None
    rewards: RewardSettings = Field(default_factory=RewardSettings)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    curriculum: CurriculumSettings = Field(default_factory=CurriculumSettings)
    dynamic_sampling: DynamicSampling = Field(default_factory=DynamicSampling)
    conditioning: ConditioningSettings = Field(default_factory=ConditioningSettings)
    max_unknown_tokens: Annotated[float, Field(ge=0, le=1)] = 0.1
    diagnostics: DiagnosticSettings = Field(default_factory=DiagnosticSettings)
    num_samples: Annotated[int, Field(ge=0)] = 4
    poll_interval: Annotated[float, Field(gt=0, le=3600)] = 0.05
    policy_loss: PolicyLoss | None = Field(exclude=True)
    scale_invariant: bool = Field(exclude=True)

    @property
    def trained(self) -> dict[str, ObjectiveConfig]:
        """The objectives that the method sees: all but those that are only evaluated."""
        return trained(self.objectives)

    @property
    def from_log_probs(self) -> dict[str, Quantity]:
        """The objectives that are read off log-probabilities, each with what it is."""
        functions = {name: objective.reward_fn for name, objective in self.objectives.items()}
        return {name: QUANTITIES[spec] for name, spec in functions.items() if spec in QUANTITIES}

    def has_reference(self, config: DictConfig) -> bool:
        """Whether there is a reference policy beside the trained one: for a KL in loss, reward or objective."""
        of_verl = config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward
        return bool(of_verl or "kl" in self.from_log_probs.values())

    def about(self, row: Mapping[str, Any]) -> set[str]:
        """The objectives that are about a row of the data, by what they apply to."""
        if not any(objective.applies_to for objective in self.objectives.values()):
            return set(self.objectives)
        completion = Completion.unwritten(row)
        return {name for name, objective in self.objectives.items() if objective.is_about(completion)}

    def build_scalarizer(self) -> Scalarizer:
        """The method, at its initial weights.

        Raises:
            CtwaError: names that do not agree, or a method that the estimator does not allow.
        """
        weights = {name: objective.weight for name, objective in self.trained.items()}
        targets = None
        if takes_targets(self.method):  # to the others a target in the configuration is nothing
            targets = {name: each.target for name, each in self.trained.items() if each.target is not None}
        return build_scalarizer(self.method, weights, targets=targets, scale_invariant=self.scale_invariant)

    def build_reference_length(self) -> ReferenceLength | None:
        """The length that conciseness is measured against, where one is configured."""
        return None if self.reference_length is None else build_reference(self.reference_length)

    def build_shaping(self) -> Shaping:
        """What is done to rewards before the method sees them."""
        return Shaping(self.objectives, self.rewards.standardise)

    def build_conditioning(self) -> Conditioning | None:
        """What writes weights into the prompts, where they are told any.

        Raises:
            CtwaError: the template does not fit the objectives.
        """
        if not self.conditioning.is_on:
            return None
        return Conditioning(self.conditioning, {name: objective.weight for name, objective in self.trained.items()})

    def log_probs_source(self, requirements: Requirements) -> Literal["none", "in_update", "post_update"]:
        """Where the log-probs behind the statistic of an update come from: the method's wish, else the diagnostics'."""
        shown = "none" if self.policy_loss is None else self.diagnostics.covariance
        wanted = shown if requirements.log_probs == "none" else requirements.log_probs
        # Prompts that are held out of an update are measured after it; its later mini-batches in it.
        needed: dict[str, Literal["in_update", "post_update"]] = {"held_out": "post_update", "minibatch": "in_update"}
        return needed.get(self.probe_source(requirements), wanted)

    def probe_source(self, requirements: Requirements) -> ProbeSource:
        """Where the probe is measured: the method's wish, else the diagnostics'."""
        return self.diagnostics.probe if requirements.probe == "none" else requirements.probe


ModelSource = Annotated[str, AfterValidator(lambda name: str(locate(name)))]
"""A model's folder, a run's, or a name on the hub; what it holds is the folder or name that transformers loads."""

SettingsOf = TypeVar("SettingsOf", bound=Settings)


def read_settings(config: DictConfig, of: type[SettingsOf] = Settings) -> SettingsOf:  # type: ignore[assignment]
    """Validate our part of a resolved config.

    Args:
        config: the resolved config.
        of: the settings that the command has.

    Raises:
        CtwaError: every mistake of the node in one message, each with its key.
    """
    node = OmegaConf.to_container(config.ctwa, resolve=True)
    assert isinstance(node, dict)
    read_of_verl = {
        "policy_loss": read_policy_loss(config.actor_rollout_ref.actor),
        "scale_invariant": is_scale_invariant(config.algorithm),
    }
    settings: SettingsOf = validated(of, node | read_of_verl, under="ctwa")
    return settings


def is_scale_invariant(algorithm: DictConfig) -> bool:
    """Whether scores times a positive number give the same advantages: a fixed table, for it decides what is safe.

    With a KL penalty in the reward they do not, for the penalty stays as large as it is.

    Raises:
        CtwaError: an estimator that needs a critic, or one this table does not know.
    """
    known = {
        "grpo": bool(algorithm.norm_adv_by_std_in_grpo),
        "reinforce_plus_plus": True,
        "reinforce_plus_plus_baseline": True,
        "rloo": False,
        "opo": False,
    }
    if algorithm.adv_estimator not in known:
        raise CtwaError(
            f"algorithm.adv_estimator is {algorithm.adv_estimator!r}: write one of {', '.join(known)} "
            "(estimators with a critic or of verl's own multi-reward kind do not see the objectives)"
            + did_you_mean(algorithm.adv_estimator, known)
        )
    return known[algorithm.adv_estimator] and not algorithm.use_kl_in_reward
