r"""Reading the final answer out of a completion: ``\boxed{...}``."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # `\{` and `\}` are characters of the answer


def last_boxed(text: str) -> str | None:
    r"""What the last closed ``\boxed{...}`` of a text holds, without the space around it; None where there is none.

    A box that the length limit cut off does not count; of nested boxes the innermost does.
    """
    open_braces: list[int | None] = []  # where a box's content starts; None for any other brace
    last = (-1, -1)
    for token in _TOKEN.finditer(text):
        if token.group() == "{":
            open_braces.append(None)
        elif token.group().startswith("\\boxed"):
            open_braces.append(token.end())
        elif token.group() == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and start > last[0]:
                last = (start, token.start())
    return text[slice(*last)].strip() if last[0] >= 0 else None
