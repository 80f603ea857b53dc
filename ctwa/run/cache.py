"""What an evaluation has done already: files named by all that their content depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctwa.run.jsonl import write_atomically


def digest(content: Any) -> str:
    """A name for plain values: others have another."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def cached(path: Path, compute: Callable[[], Any]) -> Any:
    """The plain values in `path`, computed and written there where they are not yet; complete or not there."""
    if path.is_file():
        return json.loads(path.read_bytes())
    content = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content).encode())
    return content
