"""Our part of the configuration of `ctwa prefer`, validated before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from ctwa.aggregators.base import Aggregator
from ctwa.aggregators.linear import FixedWeightsConfig
from ctwa.aggregators.registry import AGGREGATORS, AggregatorConfig, build_aggregator
from ctwa.engine.settings import ModelSource, RunSettings
from ctwa.errors import CtwaError
from ctwa.preference.data import PreferenceSource
from ctwa.preference.early_stopping import EarlyStoppingConfig
from ctwa.preference.losses import DpoLoss, PreferenceLoss
from ctwa.preference.modpo import Modpo, ModpoConfig
from ctwa.preference.registry import PreferenceLossConfig
from ctwa.strict import StrictModel, validated

Share = Annotated[float, Field(gt=0, lt=1)]


class PreferenceObjectiveConfig(PreferenceSource):
    """An objective: its weight in the preference, its pairs, and those it is validated on.

    Attributes:
        weight: 0 or more; only the ratios matter.
        validation: a file like ``data`` with the pairs to validate on; by default a share of ``data``.
    """

    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    validation: str | None = None

    def source(self, *, validation: bool = False) -> PreferenceSource:
        """Where the pairs to train on are, or those of the validation."""
        fields = self.model_dump(exclude={"weight", "validation"})
        return PreferenceSource(**fields | ({"data": self.validation} if validation else {}))


class ModpoSettings(ModpoConfig):
    """MODPO: train one objective's pairs, the others enter by the implicit rewards of policies aligned to each alone.

    Attributes:
        policies: by objective, for all others with a weight: a model folder, a run's, or a name on the hub.
    """

    policies: dict[str, ModelSource]


class PreferenceDiagnostics(StrictModel):
    """What is measured beyond what the method needs.

    Attributes:
        gradients_every: norms and cosines of the objectives' gradients at every k-th step; 0 for the steps in which
            the method looks at them itself.
    """

    gradients_every: Annotated[int, Field(ge=0)] = 0


class PreferenceSettings(RunSettings):
    """The ``ctwa`` node of ``ctwa prefer``.

    Attributes:
        objectives: what is aligned with, by name.
        loss: of a pair of responses.
        method: how the objectives' losses, or their gradients, become one update.
        max_length: of prompt and response together, in tokens; longer pairs are unusable rows.
        validation_share: of the prompts of a data set whose objectives name no ``validation``.
        early_stopping: stop on the preference-weighted validation loss, and keep the best step; None to train to the
            end.
        modpo: train one objective with margins, in place of all of them.
        reference_cache: the folder of the reference's log-probabilities; by default inside the run.
        diagnostics: what is measured beyond what the method needs.
    """

    objectives: Annotated[dict[str, PreferenceObjectiveConfig], Field(min_length=1)] = Field(
        default_factory=dict, validate_default=True
    )
    loss: PreferenceLossConfig
    method: AggregatorConfig
    max_length: Annotated[int, Field(ge=2, le=10_000_000)] = 512
    validation_share: Share = 0.1
    early_stopping: EarlyStoppingConfig | None = None
    modpo: ModpoSettings | None = None
    reference_cache: str | None = None
    diagnostics: PreferenceDiagnostics = Field(default_factory=PreferenceDiagnostics)

    def idle(self) -> Mapping[str, str]:
        """No share is taken of what has a validation of its own, and nothing is kept of a reference nobody asks."""
        idle = {}
        if all(objective.validation for objective in self.objectives.values()):
            idle["validation_share"] = "a validation of every objective's own"
        if not self.needs_reference:
            idle["reference_cache"] = f"loss={self.loss.type}, which has no reference"
        return idle

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives in alphabetical order, as the methods see them."""
        return tuple(sorted(self.objectives))

    @property
    def method_name(self) -> str:
        """The method as `ctwa prefer` calls it."""
        return AGGREGATORS[self.method.type].preference_name or str(self.method.type)

    @property
    def weights(self) -> dict[str, float]:
        """The preference, by name."""
        return {name: objective.weight for name, objective in self.objectives.items()}

    @property
    def trained(self) -> tuple[str, ...]:
        """The objectives whose labels are trained on, in alphabetical order."""
        return self.names if self.modpo is None else (self.modpo.objective,)

    @property
    def training_loss(self) -> PreferenceLoss:
        """The loss that is trained with: MODPO's is DPO's with another beta, and another reference for each pair."""
        if self.modpo is None:
            return self.loss
        assert isinstance(self.loss, DpoLoss)
        return self.loss.model_copy(update={"beta": self.loss.beta * Modpo(self.modpo, self.weights).scale})

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probabilities are wanted: by the loss, or by early stopping (on DPO's loss)."""
        return self.loss.needs_reference or self.early_stopping is not None

    @property
    def cache(self) -> Path:
        """Where the reference's log-probabilities are kept."""
        return Path(self.reference_cache) if self.reference_cache else Path(self.run) / "reference"

    def build_aggregator(self) -> Aggregator:
        """The method, at its initial weights.

        Raises:
            CtwaError: the method does not fit the objectives.
        """
        return build_aggregator(self.method, self.weights if self.modpo is None else {self.modpo.objective: 1.0})


def read_preference_settings(config: DictConfig) -> PreferenceSettings:
    """Validate our part of a resolved config.

    Raises:
        CtwaError: every mistake of the node in one message, each with its key.
    """
    node = OmegaConf.to_container(config.ctwa, resolve=True)
    assert isinstance(node, dict)
    for key in ("rewards", "poll_interval"):  # what engine=gpu says of reward functions and rollouts: here are none
        node.pop(key, None)
    settings: PreferenceSettings = validated(PreferenceSettings, node, under="ctwa")
    if settings.modpo is not None:
        _check_modpo(settings, settings.modpo)
    return settings


def _check_modpo(settings: PreferenceSettings, modpo: ModpoSettings) -> None:
    others = {name for name, share in Modpo(modpo, settings.weights).others.items() if share > 0}
    if missing := sorted(others - modpo.policies.keys()):
        raise CtwaError(f"ctwa.modpo.policies has none for {missing}: give each a policy aligned to it alone")
    if not isinstance(settings.loss, DpoLoss) or not isinstance(settings.method, FixedWeightsConfig):
        raise CtwaError("ctwa.modpo trains with one loss, DPO's: write loss=dpo method=linear")
