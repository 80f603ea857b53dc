"""The language of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def language_of(text: str, among: Sequence[str] | None = None) -> tuple[str, float]:
    """The code of a text's language, and its probability.

    Args:
        text: of a sentence or more; less tells little.
        among: the codes of the languages it may be of (ISO 639-1); all that py3langid knows by default.

    Raises:
        ValueError: a language that is not known.
    """
    code, probability = _identifier(None if among is None else tuple(among)).classify(text)
    return str(code), float(probability)


@lru_cache(maxsize=8)
def _identifier(among: tuple[str, ...] | None) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second, which other rewards need not pay

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if among is not None:
        identifier.set_languages(list(among))
    return identifier
