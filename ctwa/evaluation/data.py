"""Rows of a parquet or JSON Lines file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError
from ctwa.preference.data import PreferenceSource
from ctwa.preference.data import read_rows as read_all


def read_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows, or the first `limit` of them.

    Raises:
        CtwaError: there is no such file, it is not what its name says, or it is empty.
    """
    if not path.is_file() or path.suffix not in (".parquet", ".jsonl"):
        raise CtwaError(f"{path} is no .parquet or .jsonl file that exists; give one")
    rows = [dict(row) for row in islice(read_all(PreferenceSource(data=str(path))), limit)]
    if not rows:
        raise CtwaError(f"{path} has no row; give another file")
    return rows
