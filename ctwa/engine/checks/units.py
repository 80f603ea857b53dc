"""Rewards that shaping takes something from which the method goes by: their zero, their unit, their mean."""

from __future__ import annotations

from collections.abc import Iterable

from ctwa.engine.settings import Settings
from ctwa.errors import CtwaError
from ctwa.scalarizers.base import Scalarizer


def check_units(settings: Settings, scalarizer: Scalarizer) -> None:
    """Refuse rewards that are standardised or ranked for a method that they leave nothing to go by.

    Raises:
        CtwaError: which setting, what of the method it defeats, and what to write instead.
    """
    _check_standardise(settings, scalarizer)
    _check_ranks(settings, scalarizer)


def _check_standardise(settings: Settings, scalarizer: Scalarizer) -> None:
    standardise, method = settings.rewards.standardise, settings.method.type
    if standardise == "none":
        return
    key, in_units = f"ctwa.rewards.standardise={standardise}", scalarizer.in_units
    if scalarizer.has_zero:
        instead = "ctwa.objectives.NAME.transform=rank"
        if scalarizer.followed_means:  # which never move of ranks
            instead = _or("ctwa.objectives.NAME.transform=sigmoid", in_units)
        raise CtwaError(
            f"{key} leaves no reward its zero, which the method {method} goes by: write none, and for rewards of "
            f"unlike scale {instead}; or another method"
        )
    if in_units:
        raise CtwaError(
            f"{key}: the method {method} has its {' and '.join(in_units)} in the units of the rewards, and those that "
            f"are standardised have other units in every batch: write {_or('none', in_units.values())}"
        )
    # Held-out rewards are not standardised.
    if standardise == "batch" and scalarizer.followed_means and not scalarizer.requirements.validation:
        raise CtwaError(
            f"{key}: the method {method} goes by the mean rewards of a batch, which are all 0 then: write none or "
            "running"
        )


def _check_ranks(settings: Settings, scalarizer: Scalarizer) -> None:
    method, in_units = settings.method.type, scalarizer.in_units
    for name in scalarizer.followed_means:
        objective = settings.objectives[name]
        # With a gate the mean says how often that is open.
        if objective.transform == "rank" and objective.gate is None:
            what = "" if scalarizer.has_zero or not in_units else f" (its {' and '.join(in_units)})"
            bounds = f", with {_or('', in_units)}" if scalarizer.has_zero else ""
            raise CtwaError(
                f"ctwa.objectives.{name}.transform=rank: the method {method} goes by how large the rewards of '{name}' "
                f"are in the mean{what}, of which ranks within a prompt say nothing: their mean is .5. Write sigmoid, "
                f"or no transform{bounds}"
            )


def _or(first: str, options: Iterable[str]) -> str:
    """What one may write: the first, or an option of the method."""
    return " or ".join(filter(None, [first, *(f"ctwa.method.{option}" for option in options if option)]))
