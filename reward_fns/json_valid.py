"""JSON: is the response a JSON value, with the keys or of the schema that was asked for?"""

from collections.abc import Mapping, Sequence
from typing import Any

from ctwa.instructions.text import json_in


def json_valid(
    response: str,
    keys: Sequence[str] = (),
    other_keys: bool = True,
    schema: Mapping[str, Any] | None = None,
) -> float:
    """1 for a response that is one JSON object or list and nothing else, else 0.

    A code fence around it is allowed. A key twice, NaN and Infinity are not.

    Args:
        response: the response.
        keys: that the object has to have; then it has to be an object.
        other_keys: it may have others beside them.
        schema: a JSON Schema (draft 2020-12) that it has to keep.
    """
    try:
        value = json_in(response)
    except ValueError:
        return 0.0
    if not isinstance(value, dict | list):  # a number or a word alone is JSON by accident
        return 0.0
    if keys and not (isinstance(value, dict) and set(keys) <= set(value)):
        return 0.0
    if not other_keys and set(value) - set(keys):
        return 0.0
    if schema is not None:
        from jsonschema import Draft202012Validator

        return float(Draft202012Validator(schema).is_valid(value))
    return 1.0


def check_json_valid(
    keys: Sequence[str] = (), other_keys: bool = True, schema: Mapping[str, Any] | None = None
) -> None:
    """Refuse what is no list of keys or no schema."""
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"keys={keys!r}: write a list of names")
    if not other_keys and not keys:
        raise ValueError("other_keys=False leaves no key without keys: write those that there may be")
    if schema is not None:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"schema is no JSON Schema: {error.message}") from error
        _check_references(schema)


def _check_references(schema: Mapping[str, Any]) -> None:
    """Refuse a `$ref` to what is not there: nothing is fetched from the network."""
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    def check(part: Any, resolver: Any) -> None:
        for key in ("$ref", "$dynamicRef"):
            reference = part.contents.get(key) if isinstance(part.contents, Mapping) else None
            if reference is not None:
                try:
                    resolver.lookup(reference)
                except Unresolvable as error:
                    raise ValueError(f"schema has a {key} to {reference!r}, which is not in it") from error
        for each in part.subresources():
            check(each, resolver.in_subresource(each))

    whole = DRAFT202012.create_resource(dict(schema))
    name = whole.id() or ""
    check(whole, REGISTRY.with_resource(name, whole).crawl().resolver(name))
