"""Policies that are told weights: a vector for each prompt, drawn, written into the prompt, and what it is scored with.

After the training the weights are chosen in the prompt. One network for a whole family of losses is the idea of
Dosovitskiy & Djolonga 2020 (You Only Train Once); of language models Conditional Language Policy (Wang et al. 2024,
arXiv 2407.15762) has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, field_validator

from ctwa.batch import Rollout
from ctwa.errors import CtwaError, did_you_mean
from ctwa.strict import StrictModel
from ctwa.weights import shares

PROMPT, ALL = "prompt", "weights"
"""What a template may have in braces beside the names of objectives."""
_PLACE = re.compile(r"\{([^{}]*)\}")
_FINEST = 10_000


class Template(StrictModel):
    """How weights are written into a prompt.

    Attributes:
        resolution: into how many equal parts the weights are rounded; they are written, and scored with, as whole
            numbers of these parts, which add up to it. 100 writes percentages, 9 a digit for each objective.
        template: what the last message of the user becomes. ``{prompt}`` is what it was, ``{weights}`` all weights with
            the objectives' names, and ``{NAME}`` that of one objective.
    """

    resolution: Annotated[int, Field(ge=2, le=_FINEST)] = 100
    template: str = "Weights: {weights}.\n\n{prompt}"

    @field_validator("template")
    @classmethod
    def _has_a_place_for_the_prompt(cls, template: str) -> str:
        if (number := _PLACE.findall(template).count(PROMPT)) != 1:
            raise ValueError(
                f"the template has {number} times {{{PROMPT}}}; write it once, as in "
                f"{cls.model_fields['template'].default!r}"
            )
        return template


class ConditioningSettings(Template):
    """Training one policy for many weights: each prompt of a step is told some, and scored with them.

    Attributes:
        concentration: weights are drawn for each prompt from a Dirichlet distribution whose mean are the objectives'
            own weights: the higher, the nearer to them. With equal weights 1 draws every mixture alike, and below 1
            most prompts ask for one objective nearly alone. null for a policy that is told nothing.
    """

    concentration: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @property
    def is_on(self) -> bool:
        """Whether prompts are told weights."""
        return self.concentration is not None


class Conditioning:
    """Weights in prompts.

    Args:
        template: how they are written.
        weights: the objectives' own, by name. An objective of weight 0 is never asked for.

    Attributes:
        names: the objectives that may have a weight, in alphabetical order.
        own: the objectives' own weights, rounded.

    Raises:
        CtwaError: the template leaves an objective out, or names what is none; there is one objective alone; or the
            resolution rounds the weight of one to 0.
    """

    def __init__(self, template: Template, weights: Mapping[str, float]) -> None:
        self._template, self._resolution = template.template, template.resolution
        own = {name: share for name, share in shares(weights).items() if share > 0}
        self.names, self._mean = tuple(own), own
        self._total = math.fsum(weights.values())
        self._without = [name for name in weights if name not in own]
        self._check()
        self.own = self.rounded(own)
        if rounded_off := [name for name, share in self.own.items() if share == 0]:
            least = math.ceil(1 / min(own.values()) - 1e-6)
            raise CtwaError(
                f"ctwa.conditioning.resolution={self._resolution} rounds the weight of {', '.join(rounded_off)} to 0, "
                f"and validation would not ask for it: write {f'{least} or more, or ' * (least <= _FINEST)}a larger "
                "weight"
            )

    def rounded(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Weights as shares of whole parts, which add up to 1: those with the largest remainders are rounded up.

        Args:
            weights: by name, of which only the ratios matter; an objective that is not named has none.

        Raises:
            CtwaError: a name is no objective that may have a weight, or the weights say nothing.
        """
        for name in weights:
            if name not in self.names and (weights[name] != 0 or name not in self._without):
                raise CtwaError(
                    f"the weights name '{name}', which the policy is told nothing of; write some of "
                    f"{', '.join(self.names)}" + did_you_mean(name, self.names)
                )
        exact = {name: share * self._resolution for name, share in shares(weights).items() if name in self.names}
        parts = {name: math.floor(exact.get(name, 0.0) + 1e-9) for name in self.names}
        by_rest = sorted(self.names, key=lambda name: parts[name] - exact.get(name, 0.0))
        for name in by_rest[: self._resolution - sum(parts.values())]:
            parts[name] += 1
        return {name: number / self._resolution for name, number in parts.items()}

    def draw(self, seed: int, concentration: float) -> dict[str, float]:
        """The weights of a prompt, rounded; the same for the same seed."""
        alphas = [concentration * len(self.names) * share for share in self._mean.values()]
        drawn = np.random.default_rng(seed).dirichlet(alphas)
        return self.rounded(dict(zip(self.names, drawn.tolist(), strict=True)))

    def scale(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Weights to the sum that the objectives' own have, of all objectives."""
        return {**dict.fromkeys(self._without, 0.0), **{name: self._total * each for name, each in weights.items()}}

    def write(self, prompt: Any, weights: Mapping[str, float]) -> Any:
        """A prompt that is told weights, in the form that it had.

        Args:
            prompt: a text, or messages, of which the last of the user is written anew; one without any is written into
                its last.
            weights: as ``rounded`` gives them.
        """
        before, _, after = self._template.partition(f"{{{PROMPT}}}")
        around = [self._filled(before, weights), self._filled(after, weights)]
        if isinstance(prompt, str):
            return prompt.join(around)
        messages = list(prompt)
        of_user = [place for place, message in enumerate(messages) if message["role"] == "user"]
        place = of_user[-1] if of_user else len(messages) - 1
        content = messages[place]["content"]
        if isinstance(content, str):
            told: Any = content.join(around)
        else:  # texts and images, side by side
            first, last = ([{"type": "text", "text": text}] if text else [] for text in around)
            told = [*first, *content, *last]
        messages[place] = {**messages[place], "content": told}
        return messages

    def told(self, weights: Mapping[str, float]) -> str:
        """Weights as ``{weights}`` in a template writes them."""
        return ", ".join(f"{name} {self._parts(weights[name])}" for name in self.names)

    def corners(self) -> list[dict[str, float]]:
        """All weight on one objective, of each."""
        return [{name: float(name == one) for name in self.names} for one in self.names]

    def unlike(self) -> list[dict[str, float]]:
        """Weights that a policy has to tell apart: two objectives share all, in at most some hundred steps."""
        first, second, *_ = self.names
        numbers = range(1, self._resolution, max(1, self._resolution // 100))
        mixtures = [self.rounded({first: number, second: self._resolution - number}) for number in numbers]
        return [*self.corners(), *mixtures]

    def _parts(self, share: float) -> int:
        return round(share * self._resolution)

    def _filled(self, text: str, weights: Mapping[str, float]) -> str:
        return _PLACE.sub(
            lambda found: self.told(weights) if found[1] == ALL else str(self._parts(weights[found[1]])), text
        )

    def _check(self) -> None:
        if len(self.names) < 2:
            raise CtwaError(
                f"ctwa.conditioning: {', '.join(self.names)} is the only objective with a weight, so there is nothing "
                "to choose; give another objective a weight above 0"
            )
        if taken := [name for name in self.names if name in (PROMPT, ALL)]:
            raise CtwaError(
                f"ctwa.conditioning.template takes {{{taken[0]}}} for something else than the objective of that name; "
                "give the objective another name"
            )
        places = [name for name in _PLACE.findall(self._template) if name not in (PROMPT, ALL)]
        for name in places:
            if name not in self.names:
                raise CtwaError(
                    f"ctwa.conditioning.template has {{{name}}}, which is no objective with a weight; write "
                    f"{{{PROMPT}}}, {{{ALL}}} or {', '.join(f'{{{each}}}' for each in self.names)}"
                    + did_you_mean(name, self.names)
                )
        lacking = [name for name in self.names if name not in places]
        if lacking and ALL not in _PLACE.findall(self._template):
            raise CtwaError(
                f"ctwa.conditioning.template leaves out {', '.join(lacking)}: write {{{lacking[0]}}} where its weight "
                f"belongs, or {{{ALL}}} for all of them"
            )


def conditioning_metrics(rollout: Rollout, *, split: str) -> dict[str, float]:
    """What the prompts of a step, or of a validation, were told, and whether the policy heeds it.

    Returns:
        ``conditioning/weight/<name>``: the mean weight over the prompts; of a validation ``conditioning/validated/
        <name>``. ``conditioning/heed/<name>``, of a step: the correlation over its prompts of an objective's weight
        with the mean reward of the prompt's completions; 0 for a policy that does not heed its weights. It is left out
        where one of the two does not vary. Nothing where prompts are told nothing.
    """
    if rollout.weights is None:
        return {}
    if split == "val":
        return {f"conditioning/validated/{name}": float(each_N.mean()) for name, each_N in rollout.weights.items()}
    _, prompt_N = torch.unique(rollout.group_N, return_inverse=True)
    num_N = torch.ones(len(prompt_N), dtype=torch.float64)
    num_G = torch.bincount(prompt_N, num_N)
    metrics = {}
    for name, weight_N in rollout.weights.items():
        metrics[f"conditioning/weight/{name}"] = float(weight_N.mean())
        rewards_N = rollout.rewards.select([name]).filled_NM(rollout.group_N)[:, 0]
        both_2G = torch.stack([torch.bincount(prompt_N, each_N) / num_G for each_N in (weight_N, rewards_N)])
        if len(num_G) > 1 and bool((both_2G.amax(1) - both_2G.amin(1) > 1e-9).all()):
            metrics[f"conditioning/heed/{name}"] = float(torch.corrcoef(both_2G)[0, 1])
    return metrics


def weights_of(told: Sequence[Mapping[str, float] | None]) -> dict[str, torch.Tensor] | None:
    """The weights of completions by objective, float64 (N,); None where they were told nothing."""
    if not told or told[0] is None:
        return None
    return {name: torch.tensor([(each or {})[name] for each in told], dtype=torch.float64) for name in told[0]}
