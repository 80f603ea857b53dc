"""Rows of a parquet, JSON Lines or JSON file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError
from ctwa.objectives.rows import SUFFIXES, first_rows
from ctwa.preference.data import PreferenceSource
from ctwa.preference.data import read_rows as read_all


def read_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows, or the first `limit` of them.

    Raises:
        CtwaError: there is no such file, it is not what its name says, or it is empty.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise CtwaError(f"{path} is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file that exists; give one")
    if path.suffix == ".json":  # a list of rows, which training takes too
        rows = first_rows(path, limit)
    else:
        rows = [dict(row) for row in islice(read_all(PreferenceSource(data=str(path))), limit)]
    if not rows:
        raise CtwaError(f"{path} has no row; give another file")
    return rows
