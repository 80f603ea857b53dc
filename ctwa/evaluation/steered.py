"""Models whose weights are chosen at the evaluation: one that is told them, or experts that are mixed or merged.

Each choice of weights is a model of the evaluation by itself, and those of a kind are a front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ctwa.errors import CtwaError, did_you_mean
from ctwa.evaluation.config import EvalConfig
from ctwa.evaluation.models import Model
from ctwa.evaluation.runs import conditioning_of
from ctwa.models.merging import merge_folders
from ctwa.models.mixing import Mixture
from ctwa.objectives.conditioning import Conditioning
from ctwa.run.cache import digest
from ctwa.weights import shares


class Steered(Model):
    """A model at one choice of weights.

    Args:
        front: what it is called with whatever weights; they stand behind that in its name.
        told: the weights, as shares, by objective.
        parts: the models that it is made of; the first lends it tokenizer and config.
        options: of a model.
    """

    def __init__(
        self, front: str, told: Mapping[str, float], parts: Sequence[Model], options: Mapping[str, Any]
    ) -> None:
        numbers = "/".join(f"{told[name]:.4g}" for name in sorted(told))
        super().__init__(f"{front} {numbers}", parts[0].source, **options)
        self.front, self.told, self.parts = front, dict(told), tuple(parts)

    @cached_property
    def config(self) -> Any:
        """That of its first part."""
        return self.parts[0].config

    @cached_property
    def tokenizer(self) -> Any:
        """That of its first part."""
        return self.parts[0].tokenizer

    def look(self) -> None:
        """See that its parts are there. Raises CtwaError where one is not."""
        for part in self.parts:
            part.look()


class Conditioned(Steered):
    """A model that reads its weights in the prompt.

    Args:
        conditioning: what writes them.
        front, told, parts, options: as of every ``Steered``; one part.
    """

    def __init__(self, conditioning: Conditioning, front: str, told: Mapping[str, float], *rest: Any) -> None:
        super().__init__(front, told, *rest)
        self._conditioning = conditioning

    @cached_property
    def fingerprint(self) -> str:
        """The model's own: its prompts differ."""
        return self.parts[0].fingerprint

    @property
    def weights(self) -> Any:
        """The model itself."""
        return self.parts[0].weights

    @property
    def loads(self) -> tuple[Model, ...]:
        """The model itself."""
        return self.parts

    def read(self, prompt: Any) -> Any:
        """The prompt, which is told the weights."""
        return self._conditioning.write(prompt, self.told)


class Combined(Steered):
    """Experts, one an objective, as one model. Those without a weight have no part in it.

    Args:
        experts: by objective; their order says nothing.
        front, told, options: as of every ``Steered``.
    """

    def __init__(
        self, experts: Mapping[str, Model], front: str, told: Mapping[str, float], options: Mapping[str, Any]
    ) -> None:
        chosen = [name for name in sorted(experts) if told[name] > 0]
        super().__init__(front, told, [experts[name] for name in chosen], options)
        self._experts, self._options = {name: experts[name] for name in chosen}, options

    @cached_property
    def fingerprint(self) -> str:
        """Of how they are combined, and of each objective's weight and expert."""
        chosen = {name: [self.told[name], expert.fingerprint] for name, expert in self._experts.items()}
        return digest([type(self).__name__, chosen])


class Mod(Combined):
    """Experts whose log-probabilities are mixed at every token."""

    def look(self) -> None:
        """See that the experts read and write the same tokens.

        Raises:
            CtwaError: they do not, or one is not there.
        """
        super().look()
        first, *others = self.parts
        for other in others:
            if _words(other) != _words(first):
                raise CtwaError(
                    f"the experts {first.source} and {other.source} have different tokens, and MOD mixes their "
                    "probabilities token by token; give models of one tokenizer, such as runs that began with one model"
                )

    @property
    def weights(self) -> Any:
        """The experts as one; they keep their own memory."""
        return Mixture([expert.weights for expert in self.parts], [self.told[name] for name in self._experts])

    @property
    def loads(self) -> tuple[Model, ...]:
        """The experts."""
        return self.parts


class Soup(Combined):
    """Experts whose weights are merged, from their files: Rewarded Soups. None of them is loaded itself."""

    def look(self) -> None:
        """See that the experts are folders.

        Raises:
            CtwaError: one is not, or is not there.
        """
        super().look()
        for expert in self.parts:
            if not isinstance(expert.location, Path):
                raise CtwaError(f"a soup is merged of folders, and {expert.source} is none; give the model's folder")

    @property
    def weights(self) -> Any:
        """The merged model."""
        if self._weights is None:
            folders = {name: Path(expert.location) for name, expert in self._experts.items()}
            with TemporaryDirectory(prefix="ctwa-soup-") as folder:
                merged = Path(folder) / "model"
                merge_folders(folders, {name: self.told[name] for name in folders}, merged)
                self._weights = Model(self.name, str(merged), **self._options).weights
        return self._weights


def steered_models(config: EvalConfig, options: Mapping[str, Any]) -> list[Steered]:
    """The models of an evaluation that take weights, at each choice of them.

    Args:
        config: the evaluation.
        options: of its models.

    Raises:
        CtwaError: weights that one of them knows nothing of, or that differ by less than names tell, a model that is
            not there, or an expert that reads weights in its prompts.
    """
    found: list[Steered] = []
    for name, chosen in config.conditioned.items():
        conditioning = Conditioning(chosen, dict.fromkeys(chosen.objectives, 1.0))
        model = Model(name, chosen.model, **options)
        told = map(conditioning.rounded, config.weights)
        found += [Conditioned(conditioning, name, each, [model], options) for each in told]
    experts = {name: Model(name, source, **options) for name, source in config.experts.items()}
    for name, source in config.experts.items():
        if conditioning_of(Path(source)) is not None:
            raise CtwaError(
                f"the expert of '{name}', {source}, was trained with ctwa.conditioning: it reads weights in prompts, "
                "and an expert is told none; give a run with fixed weights, or evaluate this one beside the experts, "
                "told the same weights (docs/weights.md)"
            )
    kinds = {"mod": Mod, "soup": Soup}
    for how in config.combine if experts else ():
        found += [kinds[how](experts, how, _shares_of(weights, experts), options) for weights in config.weights]
    by_name: dict[str, Steered] = {}
    for each in found:
        first = by_name.setdefault(each.name, each)  # equal choices are one
        if not all(isclose(first.told[name], each.told[name], rel_tol=1e-9) for name in each.told):
            raise CtwaError(
                f"two of the weights are the same to the four digits that name them, '{each.name}': {first.told} and "
                f"{each.told}, as shares; leave one out"
            )
    if taken := by_name.keys() & config.models.keys():
        raise CtwaError(f"'{min(taken)}' is the name of two models; give one another name")
    return list(by_name.values())


def told_nothing(models: Sequence[Model]) -> list[str]:
    """The names of those that were trained to read weights in their prompts, and are told none."""
    found = []
    for model in models:
        with suppress(CtwaError):  # a model needs no file that says how it was trained
            if not isinstance(model, Steered) and conditioning_of(Path(model.source)) is not None:
                found.append(model.name)
    return found


def _shares_of(weights: Mapping[str, float], experts: Mapping[str, Model]) -> dict[str, float]:
    """The weights of all experts, as shares."""
    for name, weight in weights.items():
        if name not in experts and weight:
            raise CtwaError(
                f"the weights name '{name}', for which there is no expert; give one, or weights of "
                f"{', '.join(sorted(experts))}" + did_you_mean(name, experts)
            )
    found = shares(weights)
    return {name: found.get(name, 0.0) for name in sorted(experts)}


def _words(model: Model) -> tuple[Any, ...]:
    """What two models have alike that read and write the same tokens."""
    tokenizer, text = model.tokenizer, model.config.get_text_config()
    return tokenizer.get_vocab(), getattr(tokenizer, "chat_template", None), text.vocab_size
