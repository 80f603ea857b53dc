"""What a method says of itself. One class says it; lists, help and configuration read it there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from ctwa.errors import shown
from ctwa.strict import StrictModel, changes


class Options(StrictModel):
    """What a user may set of a method. ``type`` names the method; an option's meaning stands under ``Attributes``."""

    type: str = ""

    def fitted(self, *, scale_invariant: bool) -> Self:
        """The options for an advantage estimator, with what they leave to it decided.

        Args:
            scale_invariant: whether the estimator is (``ctwa.scalarizers.Estimate``).

        Raises:
            CtwaError: the method does not work with it.
        """
        del scale_invariant
        return self

    def unreached(self, num_steps: int) -> Iterator[str]:
        """What of the options comes into effect at no step of a run of this length: a sentence each, for the user."""
        del num_steps
        yield from ()


def with_options(options: Options, name: str | None = None) -> str:
    """The method and what of its options is not as by default, as one writes them: ``pcgrad (order=random, seed=3)``.

    Args:
        options: of the method.
        name: what it is called, where that is not its ``type``.
    """
    plain = options.model_dump(mode="json")
    written = [f"{key}={shown(plain[key])}" for key in changes(options) if key != "type"]
    return (name or options.type) + (f" ({', '.join(written)})" if written else "")


@dataclass(frozen=True)
class MethodInfo:
    """What a method is, does and costs; M is the number of objectives.

    Attributes:
        config: its options.
        summary: what it does, in a line.
        source: who proposed it.
        level: what it combines: rewards, advantages, losses or gradients of each objective, or whole models.
        passes: what a step costs beyond one with fixed weights.
        memory: what it keeps beyond that.
    """

    config: type[BaseModel]
    summary: str
    source: str = "-"
    level: Literal["reward", "advantage", "loss", "gradient", "model"] = "reward"
    passes: str = "none"
    memory: str = "none"

    @property
    def name(self) -> str:
        """The method's ``type``."""
        name: str = self.config.model_fields["type"].default
        return name


def one_of(configs: Iterable[type[BaseModel]]) -> Any:
    """The type of a config that is one of these, chosen by ``type``."""
    return Annotated[Union[tuple(configs)], Field(discriminator="type")]  # noqa: UP007 - they are known at run time


@dataclass(frozen=True)
class Option:
    """One option of a method, as text.

    Attributes:
        name: its key.
        kind: the values it takes.
        default: as one would write it; ``required`` where there is none.
        meaning: what it does.
    """

    name: str
    kind: str
    default: str
    meaning: str


def options_of(config: type[BaseModel]) -> list[Option]:
    """The options of a config, with the meanings that its docstring and those of its bases give."""
    meanings: dict[str, str] = {}
    for each in reversed(config.__mro__):
        meanings |= _meanings(each.__dict__.get("__doc__"))
    return [
        Option(
            name,
            _kind(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation),
            "required" if field.is_required() else shown(field.get_default(call_default_factory=True)),
            meanings.get(name, ""),
        )
        for name, field in config.model_fields.items()
        if name != "type"
    ]


def _meanings(docstring: str | None) -> dict[str, str]:
    section = inspect.cleandoc(docstring or "").partition("\nAttributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for names, text in entries for name in names.split(", ")}


def _kind(annotation: Any) -> str:
    """The values of a type, as one would write them."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([_kind(parts[0]), *_bounds(parts[1:])])
    if origin is Literal:
        return " | ".join(map(shown, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_kind, parts))
    if origin is dict:
        return f"{{NAME: {_kind(parts[1])}, ...}}"
    if origin in (list, tuple):
        return f"[{_kind(parts[0])}, ...]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return "{" + ", ".join(f"{name}: {_kind(field.annotation)}" for name, field in fields) + "}"
    names = {float: "number", int: "whole number", bool: "true | false", str: "text", NoneType: "null"}
    return names.get(annotation, "anything")


def _bounds(metadata: Iterable[Any]) -> list[str]:
    bounds: list[str] = []
    for each in metadata:
        if isinstance(each, FieldInfo):
            bounds += _bounds(each.metadata)
        for attribute, sign in {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}.items():
            if (value := getattr(each, attribute, None)) is not None:
                bounds.append(f"{sign} {value:g}")
    return bounds
