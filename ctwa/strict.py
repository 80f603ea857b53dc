"""The strict base of every configuration, its defaults as plain data, and the sentences about what it refuses."""

from __future__ import annotations

import re
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ctwa.errors import CtwaError, did_you_mean, shown, told_together


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{shown(value)} is no number; write one")
    return value


_NO_BOOL = {"type": "no-info", "function": _no_bool}
_REFUSING = re.compile(r"function-before\[_no_bool\(\), (\w+)\]")  # what pydantic calls such a number in a union


def _numbers_are_no_bools(schema: Any) -> Any:
    """A schema of pydantic's, in which every number refuses true and false; a union with ``bool`` has that for them."""
    if isinstance(schema, list | tuple):
        return type(schema)(_numbers_are_no_bools(each) for each in schema)
    if not isinstance(schema, dict) or schema.get("function") == _NO_BOOL:
        return schema
    if schema.get("type") in ("int", "float"):
        return {"type": "function-before", "function": _NO_BOOL, "schema": schema}
    return {
        key: value if key in ("default", "metadata", "serialization") else _numbers_are_no_bools(value)
        for key, value in schema.items()
    }


class StrictModel(BaseModel):
    """What a user writes: unknown keys, numbers that are not finite, and true or false in the place of a number are
    refused, and nothing changes afterwards.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Pydantic's own, but that true and false are no numbers, wherever one is asked for."""
        return _numbers_are_no_bools(handler(source))

    def idle(self) -> Mapping[str, str]:
        """The keys that do nothing beside the others, each with what makes them so: ``{"seed": "order=average"}``.

        One that was changed from its default is refused.
        """
        return {}

    @model_validator(mode="after")
    def _changes_nothing_idle(self) -> Self:
        refuse_idle(self, self.idle())
        return self


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for its reader (``object_pairs_hook``), which by itself takes the last of a key's two values.

    Raises:
        ValueError: a key is there twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        number = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key, times in number.items() if times > 1)!r} is there twice")
    return made


def changes(settings: BaseModel) -> dict[str, Any]:
    """What differs from the defaults, by key; what has no default does."""
    return {
        name: getattr(settings, name)
        for name, field in type(settings).model_fields.items()
        if field.is_required() or getattr(settings, name) != field.get_default(call_default_factory=True)
    }


def refuse_idle(settings: BaseModel, idle: Mapping[str, str], under: str = "") -> None:
    """Refuse keys that were changed and do nothing.

    Args:
        settings: that have the keys.
        idle: by key, what makes that it does nothing.
        under: the key of the settings, for the message; pydantic adds it where it validates them itself.

    Raises:
        CtwaError: the first of the keys.
    """
    for name, value in changes(settings).items():
        if name in idle:
            key = f"{under}.{name}" if under else name
            raise CtwaError(f"{key}={shown(value)} does nothing with {idle[name]}: leave it out")


def validated(
    kind: Any, content: Any, *, under: str = "", heading: str = "", spelled: Callable[[str], str] = str
) -> Any:
    """What a user wrote, as the model that it is to be.

    Args:
        kind: a model, or any other type that pydantic validates.
        content: plain containers.
        under: the key that the content has in its configuration.
        spelled: how a key is written where the content comes from.
        heading: of the message, such as the name of the file; by default one is added to several mistakes.

    Raises:
        CtwaError: every mistake in one message, each with its key and, for a misspelt name, the one that was meant.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise told_together(
            [_mistake(item, kind, content, under, spelled) for item in error.errors()], heading
        ) from None


def _mistake(item: Mapping[str, Any], kind: Any, content: Any, under: str, spelled: Callable[[str], str]) -> str:
    loc = tuple(_REFUSING.sub(r"\1", each) if isinstance(each, str) else each for each in item["loc"])
    place = [*_place(loc[:-1], content), str(loc[-1])] if item["type"] == "missing" else _place(loc, content)
    key = spelled(".".join([*([under] if under else []), *place])) if under or place else "the whole"
    if item["type"] == "missing":
        # A misspelt name makes a new entry, which lacks what every entry has.
        others = [name for name in _inside(content, place[:-2]) or () if name not in place]
        return f"{key} is missing: give it a value" + (did_you_mean(place[-2], others) if len(place) > 1 else "")
    if item["type"] == "extra_forbidden":
        known = _keys_at(kind, loc[:-1])
        near = did_you_mean(place[-1], known) or f"; write one of {', '.join(known)}"
        return f"{key} is no key of the configuration{near}"
    if item["type"] == "string_type" and loc[-1:] == ("[key]",):
        where = ".".join([*([under] if under else []), *_place(loc[:-2], content)]) or "the whole"
        return f"{where} has the name {shown(item['input'])}, which is no text: put it in quotes"
    if item["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return f"{key} is {shown(item['input'])}: write it as a section, {{KEY: VALUE, ...}}"
    if item["type"] == "too_short":
        return f"{key} is {shown(item['input'])}: give at least {item['ctx']['min_length']}"
    text = f"{key}: {item['msg'].removeprefix('Value error, ')}"
    if item["type"] == "union_tag_invalid":
        return text + did_you_mean(item["ctx"]["tag"], re.findall(r"'(\w+)'", item["ctx"]["expected_tags"]))
    if item["type"] != "value_error" and (isinstance(item["input"], str | int | float) or item["input"] is None):
        text += f", not {shown(item['input'])}"
    return text


def _place(loc: Sequence[str | int], node: Any) -> list[str]:
    """The key that pydantic means: its own has a union's tag in it, too, as in method.linear.eta."""
    place: list[str] = []
    for part in loc:
        if not isinstance(node, Mapping) or part in node:
            place.append(str(part))
            node = _inside(node, [part])
    return place


def _inside(node: Any, place: Sequence[str | int]) -> Any:
    for part in place:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _keys_at(kind: Any, loc: Sequence[str | int]) -> list[str]:
    """The keys that are known where an error is: along models, dicts and unions."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _keys_at(arguments[0], loc)
    if origin in (Union, types.UnionType):
        tagged = [each for each in models_of(kind) if loc and _tag(each) == loc[0]]
        options, loc = (tagged, loc[1:]) if tagged else (arguments, loc)
        return list(dict.fromkeys(key for each in options for key in _keys_at(each, loc)))
    if origin is dict:
        return _keys_at(arguments[1], loc[1:])
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    if not loc:
        return list(kind.model_fields)
    field = kind.model_fields.get(str(loc[0]))
    return _keys_at(field.annotation, loc[1:]) if field else []


def models_of(kind: Any) -> list[type[BaseModel]]:
    """The models of a union, in their order, however it is nested."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for each in get_args(kind) for model in models_of(each)]


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["type"].default if "type" in model.model_fields else None


def defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    """Every key of a configuration with its default, as plain containers; ``???`` for what has none."""
    return {name: _default(field) for name, field in model.model_fields.items() if not field.exclude}


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        kind = field.annotation
        return defaults_of(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else "???"
    value = field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
