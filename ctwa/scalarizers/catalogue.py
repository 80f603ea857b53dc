"""What each method is, on one line: for ``ctwa methods`` and for those who choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MethodInfo:
    """One method.

    Attributes:
        level: what it combines: rewards, advantages of each objective, or gradients of each objective.
        passes: what a step costs beyond one of ``linear``; M is the number of objectives.
        memory: what it keeps beyond ``linear``.
        summary: what it does.
        source: who proposed it.
    """

    level: Literal["reward", "advantage", "gradient"]
    passes: str
    memory: str
    summary: str
    source: str


_GRADIENTS = {"passes": "M - 1 backward", "memory": "M gradient shards"}

CATALOGUE: dict[str, MethodInfo] = {
    "linear": MethodInfo("reward", "none", "none", "fixed weights", "-"),
    "schedule": MethodInfo("reward", "none", "none", "fixed weights, by a timetable", "-"),
    "ctwa": MethodInfo(
        "reward",
        "1 forward, or none in_update",
        "none",
        "raises the weight of what the update's covariance leaves behind",
        "Lu & Jiang 2026, arXiv 2602.06869",
    ),
    "probe": MethodInfo(
        "reward",
        "1 forward, or none by minibatch",
        "1 copy of the weights",
        "raises the weight of what the last steps moved least",
        "this project",
    ),
    "tchebycheff": MethodInfo(
        "reward", "none", "none", "the worst weighted distance to a reference point", "Bowman 1976; Miettinen 1999"
    ),
    "hypervolume": MethodInfo(
        "reward",
        "none",
        "a front of points",
        "steps that extend the front count for more",
        "Lu et al. 2025, arXiv 2509.11452",
    ),
    "lagrangian": MethodInfo(
        "advantage", "none", "none", "one objective under constraints on the others", "primal-dual ascent"
    ),
    "pama": MethodInfo(
        "advantage", "none", "none", "the least of the positive advantages", "He & Maghsudi 2025, arXiv 2508.07768"
    ),
    "gdpo": MethodInfo(
        "advantage", "none", "none", "standardises every objective, then sums", "Liu et al. 2026, arXiv 2601.05242"
    ),
    "mgda": MethodInfo(
        "gradient",
        summary="the shortest combination of the gradients",
        source="Desideri 2012; Sener & Koltun 2018, arXiv 1810.04650",
        **_GRADIENTS,
    ),
    "gradnorm": MethodInfo(
        "gradient",
        summary="gradient norms follow training rates",
        source="Chen et al. 2018, arXiv 1711.02257",
        **_GRADIENTS,
    ),
    "dynamic": MethodInfo(
        "gradient",
        summary="weight for what serves all objectives",
        source="Lu et al. 2025, arXiv 2509.11452",
        **_GRADIENTS,
    ),
    "cagrad": MethodInfo(
        "gradient",
        summary="near the weighted gradient, best for the worst off",
        source="Liu et al. 2021, arXiv 2110.14048",
        **_GRADIENTS,
    ),
    "cagrad_clip": MethodInfo(
        "gradient", summary="CAGrad, its correction kept to the preference", source="RACO, 2026", **_GRADIENTS
    ),
    "pcgrad": MethodInfo(
        "gradient",
        summary="takes conflicting components out, pair by pair",
        source="Yu et al. 2020, arXiv 2001.06782",
        **_GRADIENTS,
    ),
    "upgrad": MethodInfo(
        "gradient",
        summary="the mean of the gradients, each made to harm none",
        source="Quinton & Rey 2024, arXiv 2406.16232",
        **_GRADIENTS,
    ),
}
