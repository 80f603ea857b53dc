"""What aligns a model with preferences, one line each: for ``ctwa methods`` and for those who choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AlignmentInfo:
    """One way to align a model with several objectives.

    Attributes:
        command: what runs it.
        passes: what a step costs beyond one of loss weighting; M is the number of objectives.
        summary: what it does.
        source: who proposed it.
        aggregator: the `type` of its aggregator, where that has another name.
    """

    command: str
    passes: str
    summary: str
    source: str
    aggregator: str | None = None


ALIGNMENT: dict[str, AlignmentInfo] = {
    "linear": AlignmentInfo("ctwa prefer", "none", "the weighted sum of the losses (DPO-LW)", "-"),
    "raco": AlignmentInfo(
        "ctwa prefer", "M - 1 backward", "CAGrad, its correction kept to the preference", "RACO, 2026", "cagrad_clip"
    ),
    "raco_unclipped": AlignmentInfo(
        "ctwa prefer",
        "M - 1 backward",
        "CAGrad: near the weighted gradient, best for the worst off",
        "Liu et al. 2021, arXiv 2110.14048",
        "cagrad",
    ),
    "clamp": AlignmentInfo(
        "ctwa prefer", "M - 1 backward", "the largest weighted loss, by a common descent direction", "CLAMP"
    ),
    "caid": AlignmentInfo(
        "ctwa caid",
        "sampling between policies",
        "a reward under constraints on other scores, by iterated dualization",
        "arXiv 2505.19387",
    ),
    "soups": AlignmentInfo(
        "ctwa merge",
        "M runs, any weights",
        "models of one objective each, merged",
        "Rame et al. 2023, arXiv 2306.04488",
    ),
}


def alignment_name(aggregator: str) -> str:
    """What a way to align is called that has this aggregator: the aggregator's own name where none has another."""
    return next((name for name, way in ALIGNMENT.items() if way.aggregator == aggregator), aggregator)
