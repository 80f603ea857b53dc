"""A configuration by dotted keys."""

from __future__ import annotations

from ctwa.run.dotted import dotted


def test_an_empty_dict_is_a_leaf_and_an_empty_tree_has_none() -> None:
    assert dotted({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [{"e": 2}]}
    assert dotted({}) == {}
