"""Files of named values that are read back, JSON or YAML: what was damaged, or is none of ours, is told by its path."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctwa.errors import CtwaError, shown
from ctwa.strict import once_each

_MOST_VALUES = 1_000_000
_MISSING = object()
_WORDS = {dict: "a section", list: "a list", str: "text", int: "a whole number", (int, float): "a number"}


class _Once(yaml.SafeLoader):
    """PyYAML takes the last of two values of one key."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_document(path: Path, advice: str) -> dict[str, Any]:
    """The keys of a file, with their values.

    Args:
        path: JSON, by its suffix, or else YAML.
        advice: what to do where that cannot be read, as the end of a sentence.

    Raises:
        CtwaError: it is missing, in no text that can be read, has a key twice, holds no keys, or has no end.
    """
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_bytes().decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=once_each) if kind == "JSON" else yaml.load(text, _Once)
        check_size(content)
    except OSError as error:
        raise CtwaError(f"{path} cannot be read ({error.strerror}): {advice}") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CtwaError(f"{path} is not {kind} ({' '.join(str(error).split())}): {advice}") from error
    if not isinstance(content, dict):
        raise CtwaError(f"{path} holds no keys: {advice}")
    return content


def check_size(tree: object) -> None:
    """See that a tree has an end: YAML can say of a few lines that they are there a billion times, or for ever.

    Raises:
        ValueError: it has none, or not soon.
    """
    sizes: dict[int, int] = {}

    def size(node: object) -> int:
        if not isinstance(node, dict | list | tuple):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_VALUES + 1  # should it contain itself
            sizes[id(node)] = 1 + sum(map(size, node.values() if isinstance(node, dict) else node))
        return sizes[id(node)]

    if size(tree) > _MOST_VALUES:
        raise ValueError(f"it makes more than {_MOST_VALUES:,} values")


class Document:
    """The values of a file by their keys, each seen to be what it has to be.

    Args:
        path: the file.
        advice: what to do where a value is another, as the end of a sentence.

    Raises:
        CtwaError: as :func:`read_document`.
    """

    def __init__(self, path: Path, advice: str) -> None:
        self.path, self._advice = path, advice
        self.content = read_document(path, advice)

    def get(self, key: str | Sequence[str], kind: Any = dict, default: Any = _MISSING) -> Any:
        """A value.

        Args:
            key: dotted; or its parts, where a name in it may have a dot.
            kind: its type, or several.
            default: where there is none, or null; without a default one has to be there.

        Raises:
            CtwaError: it is missing, or of another type.
        """
        parts = key.split(".") if isinstance(key, str) else key
        key = ".".join(parts)
        value: Any = self.content
        for part in parts:
            if value is not None and not isinstance(value, dict):
                raise CtwaError(f"{self.path}: {key} is in {shown(value)}, which is no section: {self._advice}")
            value = (value or {}).get(part)
        if value is None and default is not _MISSING:
            return default
        if value is None:
            raise CtwaError(f"{self.path} lacks {key}: {self._advice}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = _WORDS.get(kind, "another value")
            raise CtwaError(f"{self.path}: {key} is {shown(value)}, where {wanted} belongs: {self._advice}")
        return value
