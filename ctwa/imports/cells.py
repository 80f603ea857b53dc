"""Numbers as spreadsheets write them: with decimal commas, and with marks between thousands."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = r"[+-]?(?:{groups}|\d*){mark}\d+(?:[eE][+-]?\d+)?"
_GROUPS = r"[1-9]\d{{0,2}}(?:{between}\d{{3}})+"
_SPACED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[ \u00a0\u202f]\d{3})+(?:[.,]\d+)?")
"""1 000: no mark of a spreadsheet's own, but that of whole countries."""


class _Marks:
    """One way to write numbers: what is before decimals, and what between thousands."""

    def __init__(self, decimal: str, thousands: str) -> None:
        self.decimal, self.thousands = decimal, thousands
        groups = _GROUPS.format(between=re.escape(thousands))
        self.grouped = re.compile(rf"[+-]?{groups}(?:{re.escape(decimal)}\d+)?")
        self.with_decimals = re.compile(_NUMBER.format(groups=groups, mark=re.escape(decimal)))

    def has(self, cell: str) -> bool:
        """Whether the cell is a number in this way."""
        return bool(self.grouped.fullmatch(cell) or self.with_decimals.fullmatch(cell))

    def read(self, cell: str) -> str:
        """The cell as Python writes its number; as it is where it holds none."""
        return cell.replace(self.thousands, "").replace(self.decimal, ".") if self.has(cell) else cell


_POINTS = _Marks(".", ",")
_COMMAS = _Marks(",", ".")


def write_points(rows: Sequence[dict[str, str]], separator: str) -> None:
    """Write the numbers of a table as Python does, in place.

    A number that only one way of writing has (0,5 and 1.234,5; 0.5 and 1,234.5) is read in that way. One that both have
    (1,000) is read in the way of the others. Where they do not tell, a table with commas between its columns has none
    in decimals; in others 1,000 stays as it is, and is no number.
    """
    cells = {value: _unspaced(value) for row in rows for value in row.values()}
    ways = {value: _way(cell) for value, cell in cells.items()}
    told = {marks for marks in ways.values() if marks is not None}
    other = told.pop() if len(told) == 1 else _POINTS if separator == "," else None
    for value, cell in cells.items():
        marks = ways[value] or other
        cells[value] = cell if marks is None else marks.read(cell)
    for row in rows:
        for key, value in row.items():
            row[key] = cells[value]


def _way(cell: str) -> _Marks | None:
    """The one way in which a cell is a number; None where it is in both, or in none."""
    ways = [marks for marks in (_POINTS, _COMMAS) if marks.has(cell)]
    return ways[0] if len(ways) == 1 else None


def _unspaced(cell: str) -> str:
    cell = cell.strip()
    return re.sub(r"\s", "", cell) if _SPACED.fullmatch(cell) else cell
