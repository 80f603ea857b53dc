"""A configuration as its values by their dotted keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping


def dotted(tree: Mapping[str, object], *, without: Callable[[str], object] | None = None) -> dict[str, object]:
    """The leaves of a tree of dicts; an empty dict below its root is a leaf.

    Args:
        tree: of plain dicts, lists, strings and numbers.
        without: told a key, says whether to leave out what is below it.
    """
    return dict(_leaves(tree, "", without)) if tree else {}


def _leaves(node: object, at: str, without: Callable[[str], object] | None) -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict) or not node:
        yield at, node
        return
    for key, value in node.items():
        if without is None or not without(str(key)):
            yield from _leaves(value, f"{at}.{key}" if at else str(key), without)
