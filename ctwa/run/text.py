"""Numbers, names and tables as plain text that keeps its columns in a terminal, a log file and a README."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from typing import Any

from rich.cells import cell_len, set_cell_size

from ctwa.errors import is_seen

Points = Sequence[tuple[int, float]]  # (step, value), in the order of the steps

_BLOCKS = " ▁▂▃▄▅▆▇█"


def clean(name: str) -> str:
    """A name as one line of visible characters, so that no name can move the cursor or colour the terminal."""
    return "".join(character if is_seen(character) else " " if character.isspace() else "�" for character in name)


def clean_lines(text: str) -> str:
    """The same of every line of a text."""
    return "\n".join(map(clean, text.split("\n")))


def fit(name: str, width: int) -> str:
    """A name in exactly `width` terminal cells: padded, or cut with an ellipsis."""
    name = clean(name)
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    return set_cell_size(name, width - 1) + "…"


def number(value: float | None, *, sign: bool = False) -> str:
    """A number in at most 6 characters where its size allows it; "-" where there is none, "NaN" where it is none."""
    if value is None:
        return "-"
    if not isfinite(value):
        return "NaN" if isnan(value) else f"{value:+}"
    plus = "+" if sign else ""
    size = abs(value)
    if 0 < size < 0.0005:
        return f"{value:{plus}.0e}"
    for limit, digits in ((9.9995, 3), (99.995, 2), (999.95, 1), (99999.5, 0)):
        if size < limit:
            return f"{value:{plus}.{digits}f}"
    return f"{value:{plus}.0e}"


def duration(seconds: float | None) -> str:
    """A time as 0:04:09, from ten hours on as 12h05m; "-" where it is not known."""
    if seconds is None:
        return "-"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour < 10 else f"{hour}h{minute:02}m"


def counted(count: int, noun: str) -> str:
    """1 step, 2 steps."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def said(value: Any) -> str:
    """What stands in a text, a message of a conversation or a list of these: the texts and the calls of tools."""
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(said, value)))
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    if "content" not in value and "type" in value:  # a part of a message: a text, or a picture
        return str(value.get("text") or f"[{value['type']}]")
    return "\n".join(filter(None, [said(value.get("content")), *map(_called, _calls(value.get("tool_calls")))]))


def _calls(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list | tuple) else [given] if given else []


def _called(call: Any) -> str:
    function = call.get("function") or call if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping):  # of another form: as it is
        return str(function)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    return f"{function.get('name')}({arguments})"


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """One character a value, ▁ at `low` and █ at `high`; ▄ for all where the two are equal."""
    if low == high:
        return "▄" * len(values)
    span = high - low
    return "".join(_BLOCKS[1 + round(7 * min(max((value - low) / span, 0.0), 1.0))] for value in values)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines with aligned columns: the first `left` columns to the left, the numbers to the right."""
    cells = [[clean(cell) for cell in row] for row in [header, *rows]]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        padded = [
            set_cell_size(cell, width) if column < left else " " * (width - cell_len(cell)) + cell
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def code_parts(text: str) -> list[tuple[str, bool]]:
    """A sentence in parts, each with whether it is code: what stands between two backticks.

    All of it is text where backticks are odd in number, for then one of them is part of a name.
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return [(text, False)]
    return [(part, index % 2 == 1) for index, part in enumerate(parts)]
