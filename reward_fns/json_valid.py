"""JSON: is the response a JSON value, with the keys or of the schema that was asked for?"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from itertools import count
from typing import Any

from ctwa.instructions.text import json_in

_MAX_STEPS = 50_000  # keywords that are compared with a value: a schema that refers to itself may ask for 2^depth
_step: ContextVar[Iterator[int]] = ContextVar("step")


class _TooLong(Exception):
    """The comparison with the schema does not come to its end."""


def json_valid(
    response: str,
    keys: Sequence[str] = (),
    other_keys: bool = True,
    schema: Mapping[str, Any] | None = None,
) -> float:
    """1 for a response that is one JSON object or list and nothing else, else 0.

    A code fence around it is allowed. A key twice, NaN and Infinity are not. What is too deep, too large or has numbers
    too large to be compared with the schema does not keep it.

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
    return float(schema is None or _keeps(value, schema))


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


def _keeps(value: Any, schema: Mapping[str, Any]) -> bool:
    _step.set(count(1))
    try:
        return bool(_validator()(schema).is_valid(value))
    except (_TooLong, RecursionError, OverflowError):  # a response could choose to be left out by it
        return False


@lru_cache(maxsize=1)
def _validator() -> Any:
    """The validator of draft 2020-12, within bounds of time whatever it is shown."""
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    def counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
        def check(*arguments: Any) -> Any:
            if next(_step.get()) > _MAX_STEPS:
                raise _TooLong
            return keyword(*arguments)

        return check

    def unique_items(validator: Any, wanted: bool, value: Any, schema: Any) -> Iterable[Any]:
        del validator, schema
        if wanted and isinstance(value, list) and len(set(map(_frozen, value))) < len(value):
            yield ValidationError("an item twice")

    keywords = {
        **Draft202012Validator.VALIDATORS,
        "uniqueItems": unique_items,
    }  # jsonschema's takes the square of items
    return extend(Draft202012Validator, {name: counted(keyword) for name, keyword in keywords.items()})


def _frozen(value: Any) -> Any:
    """A JSON value as one that a set can hold; true is not 1."""
    if isinstance(value, dict):
        return dict, frozenset((key, _frozen(each)) for key, each in value.items())
    return (list, tuple(map(_frozen, value))) if isinstance(value, list) else (isinstance(value, bool), value)


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
