"""Weights in prompts: which methods score with them, and whether the model can read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctwa.engine.settings import Settings
from ctwa.errors import CtwaError
from ctwa.objectives.conditioning import Conditioning
from ctwa.scalarizers.base import Scalarizer
from ctwa.scalarizers.registry import SCALARIZERS

Tokenize = Callable[[Any], list[int]]
"""The tokens of a prompt's messages."""


def check_conditioning(settings: Settings, scalarizer: Scalarizer) -> None:
    """Refuse a method that has weights of its own, and a template that does not fit the objectives.

    Raises:
        CtwaError: one of the two.
    """
    if settings.build_conditioning() is None or scalarizer.takes_prompt_weights:
        return
    able = [name for name, method in SCALARIZERS.items() if method.takes_prompt_weights]
    raise CtwaError(
        f"ctwa.conditioning scores each completion with the weights of its prompt, and the method "
        f"{settings.method.type} has others: write {' or '.join(f'method={name}' for name in able)}, or "
        "ctwa.conditioning.concentration=null"
    )


def check_told(conditioning: Conditioning, prompt: Any, tokenize: Tokenize) -> None:
    """See that the model reads different weights as different tokens.

    Args:
        conditioning: what writes them.
        prompt: the messages of a row.
        tokenize: as the run does.

    Raises:
        CtwaError: it does not.
    """
    seen: dict[tuple[int, ...], str] = {}
    for weights in conditioning.unlike():
        tokens = tuple(tokenize(conditioning.write(prompt, weights)))
        if (other := seen.setdefault(tokens, conditioning.told(weights))) != conditioning.told(weights):
            raise CtwaError(
                f"the model's tokenizer reads the weights '{other}' and '{conditioning.told(weights)}' as the same "
                "tokens, so that the policy cannot tell them apart: write a ctwa.conditioning.template, or a "
                "ctwa.conditioning.resolution, of words that it knows"
            )


def described(settings: Settings, conditioning: Conditioning) -> list[str]:
    """What prompts are told, as lines of a plan."""
    chosen, own = settings.conditioning, conditioning.told(conditioning.own)
    return [
        f"told to each prompt in parts of {chosen.resolution}, as {chosen.template!r}",
        f"drawn around {own} (Dirichlet, concentration {chosen.concentration:g}); validated at {own}",
    ]
