"""Base models that come with the package, so that a testbed starts from the same weights on every machine.

``bases.json`` says of each what it was trained with (by ``scripts/make_testbed_bases.py``), where, and its checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from transformers import Qwen2ForCausalLM

from ctwa.errors import CtwaError
from ctwa.testbed.model import build_model

FOLDER = Path(__file__).parent
RECORD = "bases.json"


@dataclass(frozen=True)
class Base:
    """A base model's weights on disk.

    Attributes:
        file: safetensors.
        sha256: the file's checksum.
        num_sft_steps: after how many steps of supervised training its accuracy was reached.
        training: the settings that it was trained with.
        made_with: versions, threads and processor, on which its last bits depend.
    """

    file: Path
    sha256: str
    num_sft_steps: int
    training: Mapping[str, Any]
    made_with: Mapping[str, Any]

    def load(self) -> Qwen2ForCausalLM:
        """The model, ready to be sampled.

        Raises:
            CtwaError: the file is not what was shipped.
        """
        found = checksum(self.file)
        if found != self.sha256:
            raise CtwaError(
                f"{self.file} is not the base model that came with ctwa (SHA-256 {found[:12]}..., not "
                f"{self.sha256[:12]}...): install ctwa anew, or train one with --retrain"
            )
        model = build_model(seed=0)
        load_model(model, str(self.file))
        return model.eval()


def checksum(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def shipped_bases() -> list[Base]:
    """All that come with the package, in the order of their names."""
    records: dict[str, dict[str, Any]] = json.loads((FOLDER / RECORD).read_text())
    return [Base(FOLDER / f"{name}.safetensors", **record) for name, record in sorted(records.items())]


def shipped_base(training: Mapping[str, Any]) -> Base | None:
    """The one that was trained with these settings; None where none was."""
    return next((base for base in shipped_bases() if base.training == training), None)
