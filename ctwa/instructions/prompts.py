"""Draws prompts: a subject, and one constraint or two."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctwa.instructions.constraints import KINDS, Constraint, compatible, to_json
from ctwa.instructions.subjects import REQUESTS, topics

DATA_SOURCE = "instructions"
MIXTURE: Mapping[str, float] = {
    "bullets": 3.0,
    "sentences": 3.0,
    "at_least": 3.0,
    "keyword": 2.0,
    "avoid": 1.0,
    "at_most": 1.0,
    "json": 1.0,
    "ending": 0.5,
    "lower_case": 0.5,
    "language": 0.5,
}
"""How often a kind is drawn, relative to the others: most often what a small model does sometimes and not always."""
TWO = 0.5
"""Share of the prompts with two constraints."""


@dataclass(frozen=True)
class Prompt:
    """A request with its constraints, in the order in which the text asks for them."""

    text: str
    constraints: tuple[Constraint, ...]


def draw_prompts(num: int, seed: int, *, held_out: bool) -> list[Prompt]:
    """So many different prompts of one part, in the order in which they were drawn."""
    rng = random.Random(f"instructions:{seed}:{'held-out' if held_out else 'train'}")
    prompts: dict[str, Prompt] = {}
    while len(prompts) < num:
        prompt = draw_prompt(rng, held_out=held_out)
        prompts.setdefault(prompt.text, prompt)
    return list(prompts.values())


def draw_prompt(rng: random.Random, *, held_out: bool) -> Prompt:
    """One prompt: a request about a topic, then a sentence for every constraint."""
    request = rng.choice(REQUESTS).format(topic=rng.choice(topics(held_out=held_out)))
    kinds = [_draw_kind(rng, MIXTURE)]
    if rng.random() < TWO:
        others = {kind: weight for kind, weight in MIXTURE.items() if compatible(kind, kinds[0])}
        kinds.append(_draw_kind(rng, others))
    constraints = tuple(KINDS[kind].draw(rng) for kind in kinds)
    return Prompt(" ".join([request, *(each.ask(rng) for each in constraints)]), constraints)


def to_rows(prompts: list[Prompt], split: str) -> list[dict[str, Any]]:
    """One row a prompt in verl's format; the ground truth is the prompt's constraints as JSON."""
    return [
        {
            "data_source": DATA_SOURCE,
            "prompt": [{"role": "user", "content": prompt.text}],
            "ability": "instruction following",
            "reward_model": {"style": "rule", "ground_truth": to_json(prompt.constraints)},
            "extra_info": {
                "index": index,
                "split": split,
                "kinds": [each.kind for each in prompt.constraints],
            },
        }
        for index, prompt in enumerate(prompts)
    ]


def _draw_kind(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
