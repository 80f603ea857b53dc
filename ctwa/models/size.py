"""How large a model is, by its files: what a configuration chooses by, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

SMALL = 64 * 2**20
"""Bytes. Where the weights are fewer, calls cost more than arithmetic, and two ranks more than two threads gain."""


def is_small(path: str) -> bool:
    """Whether a folder holds the weights of a small model; a name on a hub counts as a large one's."""
    folder = Path(path).expanduser()
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return bool(files) and sum(file.stat().st_size for file in files) < SMALL
