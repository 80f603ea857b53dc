"""How the prompts of a model are told weights, beside the model where it was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctwa.run.documents import Document

CONDITIONED = "ctwa_conditioning.json"
"""The file of an exported model that reads weights in its prompts."""


@dataclass(frozen=True)
class Conditioned:
    """How prompts are told weights.

    Attributes:
        template: what the last message of the user becomes, as ``ctwa.conditioning.template`` has it.
        resolution: into how many parts the weights are rounded.
        own: by objective, the weight that the training began with.
    """

    template: str
    resolution: int
    own: dict[str, float]


def read_conditioned(folder: Path) -> Conditioned | None:
    """What an exported model's folder says of its prompts; None where they are told nothing.

    Raises:
        CtwaError: the file cannot be read, or is none that ctwa wrote.
    """
    path = folder / CONDITIONED
    if not path.is_file():
        return None
    found = Document(path, "export the model again, or take the file away")
    own = {name: float(found.get(("own", name), (int, float))) for name in found.get("own")}
    return Conditioned(found.get("template", str), found.get("resolution", int), own)
