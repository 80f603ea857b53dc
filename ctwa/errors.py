"""The one exception for mistakes a user can mend, and the one that every saved state can be."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any


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


def neighbour(path: Path) -> str:
    """What lies beside a path that is not there and has nearly its name, as the end of a sentence about it."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:  # there is nothing beside it
        return ""
    return "".join(f"; did you mean {path.parent / name}?" for name in get_close_matches(path.name, names, n=1))


def check_state(state: Mapping[str, Any], expected: Mapping[str, Any], what: str = "state") -> None:
    """Refuse a saved state that is not of this run.

    Args:
        state: what was saved.
        expected: what of it has to be as in this run: its version, method, objectives.
        what: a noun for it.

    Raises:
        CtwaError: the first key that differs.
    """
    for key, value in expected.items():
        if state.get(key) != value:
            raise CtwaError(
                f"the checkpoint's {what} has {key} {state.get(key)!r} where this run has {value!r}; "
                "resume with the config the checkpoint was made with, or start a new run"
            )
