"""Objectives that are read off log-probabilities, which are not known before a step's completions are all scored."""

from __future__ import annotations

from ctwa.engine.settings import Settings
from ctwa.errors import CtwaError
from ctwa.objectives.log_probs import QUANTITIES
from ctwa.scalarizers.base import Scalarizer

_DO_NOTHING = ("kwargs", "on_failure", "max_unscored", "applies_to", "none", "every", "gate")


def check_log_probs(settings: Settings, scalarizer: Scalarizer) -> None:
    """Refuse what such an objective cannot do, and what cannot look at it.

    Raises:
        CtwaError: a setting that would do nothing, a gate or a curriculum by such an objective, or a target beyond what
            its mean can be.
    """
    for name, each in settings.objectives.items():
        module = f"ctwa.objectives.{each.reward_fn.rpartition('/')[2].replace('.py:', ':')}"
        if "/" in each.reward_fn and module in QUANTITIES:
            raise CtwaError(f"ctwa.objectives.{name}.reward_fn={each.reward_fn} never has a value: write {module}")
    for name, quantity in settings.from_log_probs.items():
        objective = settings.objectives[name]
        key, what = f"ctwa.objectives.{name}", f"{quantity} of the log-probabilities"
        if objective.split == "val":
            raise CtwaError(f"{key}.split=val: the {what} is known in training alone; leave it out")
        if own := [each for each in _DO_NOTHING if each in objective.model_fields_set]:
            raise CtwaError(f"{key}.{own[0]} does nothing, for the {what} is of every completion; leave it out")
        target = scalarizer.mean_targets.get(name)
        if target is not None and quantity == "kl" and target > 0:
            raise CtwaError(
                f"the method {settings.method.type} has the target {target:g} for '{name}', which is minus the KL, 0 "
                f"at most: write {-target:g} for a KL of {target:g} nats a token"
            )
        if target is not None and quantity == "entropy" and target < 0:
            raise CtwaError(
                f"the method {settings.method.type} has the target {target:g} for '{name}', the entropy, which is "
                f"never below 0: write {-target:g}, or another number above 0"
            )
        for other, each in settings.objectives.items():
            if each.gate is not None and each.gate.by == name:
                raise CtwaError(
                    f"ctwa.objectives.{other}.gate.by={name}: gates are set before the {what} is known; write another "
                    "objective"
                )
        difficulty = settings.curriculum.difficulty
        if difficulty is not None and name in difficulty.weights:
            raise CtwaError(
                f"ctwa.curriculum.difficulty.by: the {what} ('{name}') solves no prompt; write another objective"
            )
