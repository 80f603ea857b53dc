"""The one exception for mistakes a user can mend, and what its sentences are made of."""

import os
import re
import signal
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^/?#@\s]+@", re.IGNORECASE)
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters: a shorter value stands in many a text by chance


class CtwaError(ValueError):
    """A mistake in what the user wrote: config, data, reward function.

    The message is one sentence: what is wrong, where, and what to write instead.
    """


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The name that a misspelt one is near to, as the end of a sentence about it.

    Args:
        word: what the user wrote.
        known: the names there are.

    Returns:
        ``; did you mean 'accuracy'?``, or nothing where none is near.
    """
    names = {name.lower(): name for name in known}
    near = get_close_matches(str(word).lower(), list(names), n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def told_together(mistakes: Sequence[str], heading: str = "") -> CtwaError:
    """One mistake in a sentence, several in a line each.

    Args:
        mistakes: a sentence each.
        heading: what they are in; then a single one is told under it, too.
    """
    if len(mistakes) == 1 and not heading:
        return CtwaError(mistakes[0])
    return CtwaError(f"{heading or 'the configuration'} is not valid:\n  " + "\n  ".join(mistakes))


def shown(value: object) -> str:
    """A value as one writes it on the command line, and no longer than a line."""
    if value is None:
        return "null"
    written = str(value).lower() if isinstance(value, bool) else str(value) or "''"
    return written if len(written) <= 80 else written[:77] + "..."


def one_line(error: BaseException, most: int = 200) -> str:
    """What a library says in an exception, as part of a sentence; its type where it says nothing.

    Args:
        error: the exception.
        most: the characters that are shown.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= most else f"{said[: most - 3]}..."


def is_seen(character: str) -> bool:
    """Whether a character can be printed; those that join others, or keep them apart, are of many scripts."""
    return character.isprintable() or character in "\u200c\u200d"


def signal_name(number: int) -> str:
    """What a signal is called; a real-time one, which has no name, by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def names_secret(variable: str) -> bool:
    """Whether a variable of the environment says by its name that it is a secret: ``OPENAI_API_KEY``, ``HF_TOKEN``."""
    return _SECRET.search(variable) is not None


def without_secrets(text: str) -> str:
    """What an exception says, for others to read: clients name the header, or the address, that they were given.

    Left out are the password in an address, and what variables of the environment hold whose names say that it is a
    secret.
    """
    text = _PASSWORD.sub(r"\1***@", text)
    secrets = {value.strip() for name, value in os.environ.items() if names_secret(name)}
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def neighbour(path: Path) -> str:
    """What lies beside a path that is not there and has nearly its name, as the end of a sentence about it."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:  # there is nothing beside it
        return ""
    return "".join(f"; did you mean {path.parent / name}?" for name in get_close_matches(path.name, names, n=1))
