"""`ctwa config KEY`: what a key means, what it may be, and what it is where nobody says anything.

Nothing is said here that is not said elsewhere: the meanings of our keys are those of their classes' docstrings, those
of verl's the comments in its files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from textwrap import fill
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from ctwa.data.settings import DataSettings
from ctwa.engine.checks.bounds import BOUNDS
from ctwa.engine.checks.keys import (
    DEAD,
    FAR,
    NO_DEFAULT,
    SYNONYMS,
    dotted,
    is_named_after,
    known_keys,
    near_keys,
    value_at,
)
from ctwa.engine.choices import OURS, default_choices, folder_of, main_file
from ctwa.engine.groups import CLASSES, SETTINGS, data_node_of, groups_of
from ctwa.engine.verl_comments import comments_of, verl_comments
from ctwa.errors import CtwaError, shown
from ctwa.method_info import Option, options_of
from ctwa.strict import models_of

WIDTH = 110
NAME = "NAME"
"""Stands for whatever the user calls an objective."""


@dataclass(frozen=True)
class Entry:
    """A key, or a section of keys.

    Attributes:
        key: dotted.
        kind: what it may be, in words; empty for a section.
        values: what it is by default, and what sets it otherwise: value by source.
        meaning: empty where nobody says it.
        of: for whom it counts, where that is not every run of the command: ``method=ctwa``.
    """

    key: str
    kind: str
    values: Mapping[str, str]
    meaning: str
    of: str = ""

    def shown(self, command: str) -> str:
        """The key, with what it is in a command as it comes."""
        chosen = {f"{group}={name}" for group, name in default_choices(command).items()}
        values = [value for source, value in self.values.items() if "=" not in source or source in chosen]
        return f"{self.key} = {values[-1]}" if values and self.kind else self.key


def overview(command: str) -> str:
    """The groups of a command, the sections of our node, and those of verl."""
    entries = entries_of(command)
    node = [each for each in entries if each.key.count(".") == 1 and each.key.startswith("ctwa.") and not each.of]
    verl = sorted({each.key.split(".")[0] for each in entries} - {"ctwa"})
    choices = default_choices(command)
    width = max(len(f"{group}={name}") for group, name in choices.items())
    return "\n".join(
        [
            f"groups of ctwa {command}, each with its default:",
            *(
                f"  {f'{group}={name}':<{width}}  {', '.join(groups_of(command)[group])}"
                for group, name in choices.items()
            ),
            "",
            "keys of ours:",
            *_list(node, command),
            "",
            f"sections of verl: {', '.join(verl)}",
            "",
            f"ctwa config KEY explains a key or lists a section, e.g. ctwa config lr{_option(command)}",
        ]
    )


def explain(word: str, command: str) -> str:
    """What is to be said of a key, a section or a group.

    Args:
        word: what the user wrote: the whole of a dotted key, or its end; spaces and hyphens are underscores.
        command: whose configuration is meant.

    Raises:
        CtwaError: there is no such key; with those whose names are near.
    """
    word = re.sub(r"[\s-]+", "_", word.strip().lstrip("+~").partition("=")[0].strip())
    if word in groups_of(command):
        return _group(word, command)
    entries = entries_of(command)
    found = [each for each in entries if _is(each.key, word)]
    if not found:
        ends = [each for each in entries if each.key.endswith(f".{word}")]
        named = [each for each in ends if each.key.split(".")[0] not in FAR] or ends
        keys = list(dict.fromkeys(each.key for each in named))
        if not keys and (meant := SYNONYMS.get(word)) is not None:
            return f"{word} is {meant} here\n\n{explain(meant, command)}"
        if len(keys) > 1:
            return "\n".join([f"several keys end in {word}; ctwa config KEY explains one:", *_list(named, command)])
        found = named
    named = [each for each in entries if is_named_after(each.key, word)]
    if not found and named:
        return "\n".join([f"no key is called {word}; these have it in their names:", *_list(named, command)])
    if not found:
        near = near_keys(word, dict.fromkeys([*(each.key for each in entries), *groups_of(command)]))
        end = f"; near are {', '.join(near)}" if near else "; ctwa config lists the sections there are"
        raise CtwaError(f"{word} is no key of ctwa {command}{end}")
    return _explained(found, named, entries, command)


def _explained(found: Sequence[Entry], named: Sequence[Entry], entries: Sequence[Entry], command: str) -> str:
    """Keys, what is in them, and, where they say little, the keys that are named after the same word."""
    texts = [_described(each, command) for each in found]
    inside = [each for each in entries if any(each.key.startswith(f"{section.key}.") for section in found)]
    depth = min((each.key.count(".") for each in inside), default=0)  # below a name of the user's it is two more
    direct = [each for each in inside if each.key.count(".") == depth and each.key not in DEAD]
    if direct:
        texts.append("\n".join(["keys in it:", *_list(direct, command)]))
    if all(each.key in DEAD or not each.kind for each in found):  # what is meant may be called otherwise
        told = {each.key for each in (*found, *inside)}
        named = [each for each in named if each.key not in told]
        texts += ["\n".join(["keys that are named after it:", *_list(named, command)])] if named else []
    return "\n\n".join(texts)


def _is(key: str, word: str) -> bool:
    """Whether a word is a key, in which NAME stands for any name."""
    parts, given = key.split("."), word.split(".")
    return len(parts) == len(given) and all(part in (NAME, each) for part, each in zip(parts, given, strict=True))


def _described(entry: Entry, command: str) -> str:
    lines = [entry.key + (f"  ({entry.of})" if entry.of else "")]
    if entry.meaning:
        lines.append(fill(entry.meaning, WIDTH, initial_indent="  ", subsequent_indent="  "))
    if entry.key in DEAD:
        return "\n".join([*lines, f"  nothing reads this key of verl in a run of ctwa: {DEAD[entry.key]}"])
    width = max((len(source) for source in entry.values), default=0)
    values = [f"{source:<{width}}  {value}" for source, value in entry.values.items()]
    lines += [f"  {'may be':<8} {entry.kind}"] if entry.kind else []
    lines += [f"  {'value' if number == 0 else '':<8} {text}" for number, text in enumerate(values)]
    others = [
        other for other in SETTINGS if other != command and any(each.key == entry.key for each in entries_of(other))
    ]
    lines.append(f"  {'of':<8} {', '.join(f'ctwa {each}' for each in (command, *others))}")
    return "\n".join(lines)


def _group(group: str, command: str) -> str:
    default = default_choices(command)[group]
    names = groups_of(command)[group]
    about = {name: _about_choice(group, name, command) for name in names}
    width = max(map(len, names))
    return "\n".join(
        [
            f"{group}: a group of ctwa {command}, by default {default}; write {group}=NAME",
            *(f"  {name:<{width}}  {text}".rstrip() for name, text in about.items()),
            *([f"ctwa methods NAME explains one, ctwa config ctwa.{group} lists the options"] if group in OURS else []),
        ]
    )


def _about_choice(group: str, name: str, command: str) -> str:
    if group in CLASSES[command]:
        from ctwa.listing import losses, methods

        known = losses() if group == "loss" else methods()
        return next((each.info.summary for each in known if each.usage == f"ctwa {command} {group}={name}"), "")
    text = (folder_of(group, command) / f"{name}.yaml").read_text()
    lines = re.match(r"(?:# @package.*\n)?((?:#.*\n)*)", text)
    return _first_sentence(" ".join(line.strip("# ") for line in lines[1].splitlines()) if lines else "")


@cache
def entries_of(command: str) -> tuple[Entry, ...]:
    """Every key that there may be: ours, the options of methods and losses, and verl's."""
    ours = list(_of_model(SETTINGS[command], "ctwa", _values(command)))
    if data_node_of(command):
        ours += _of_model(DataSettings, "data", _values(command))
    for group, classes in CLASSES[command].items():
        for name, model in classes.items():
            ours += _of_model(model, f"ctwa.{group}", {}, f"{group}={name}")
    return (*ours, *_of_verl(command))


def _of_model(model: Any, prefix: str, values: Mapping[str, Mapping[str, str]], of: str = "") -> Iterator[Entry]:
    """The keys of a model, and of the models in it."""
    if prefix.removeprefix("ctwa.") in OURS and not of:
        yield Entry(prefix, "", {}, f"The options of the {prefix.removeprefix('ctwa.')}, which its group chooses.")
        return
    for option in options_of(model):
        field, key = model.model_fields[option.name], f"{prefix}.{option.name}"
        if field.exclude:
            continue
        inner = _models(field.annotation)
        is_section = bool(inner) or option.name in OURS
        if option.name in OURS and prefix == "ctwa":
            yield from _of_model(None, key, values)
            continue
        yield _entry(key, option, values, of, is_section=is_section and not _may_be_null(field.annotation))
        below = f"{key}.{NAME}" if get_origin(_bare(field.annotation)) is dict else key
        for each in inner:
            kind = each.model_fields["type"].default if "type" in each.model_fields else ""
            yield from _of_model(each, below, values, f"type: {kind}" if kind and len(inner) > 1 else of)


def _entry(key: str, option: Option, values: Mapping[str, Mapping[str, str]], of: str, *, is_section: bool) -> Entry:
    own = {"default": option.default} if not is_section else {}
    return Entry(key, "" if is_section else option.kind, own | dict(values.get(key, {})), option.meaning, of)


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, by itself or by name."""
    bare = _bare(annotation)
    return models_of(get_args(bare)[1] if get_origin(bare) is dict else bare)


def _may_be_null(annotation: Any) -> bool:
    bare = _bare(annotation)
    return get_origin(bare) in (Union, UnionType) and type(None) in get_args(bare)


def _of_verl(command: str) -> Iterator[Entry]:
    known, values = known_keys(command), _values(command)
    comments = verl_comments() | dict(comments_of((files("ctwa.config") / "task" / "custom.yaml").read_text()))
    ours = {f"data.{key}" for key in dotted(data_node_of(command))}
    unlisted = {f"{section}.{name}" for section, names in NO_DEFAULT.items() for name in names}
    for key in dotted(known):
        if key.split(".")[0] == "ctwa" or key in ours or "_target_" in key:
            continue
        default = value_at(known, key)
        if isinstance(default, Mapping) and default:
            yield Entry(key, "", {}, comments.get(key, ""))
            continue
        kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list", str: "text"}
        kind = BOUNDS[key].words if key in BOUNDS else kinds.get(type(default), "what verl takes")
        of_verl = {"verl": "none" if key in unlisted else shown(default)}
        yield Entry(key, kind, of_verl | dict(values.get(key, {})), comments.get(key, ""))


@cache
def _values(command: str) -> dict[str, dict[str, str]]:
    """By key, what our files of a command set it to: value by source, in the order in which they are composed."""
    folder = files("ctwa.config")
    sources = (
        {"ctwa": yaml.safe_load((folder / "base.yaml").read_text())} if "base" in main_file(command)["defaults"] else {}
    )
    for group, names in groups_of(command).items():
        if group not in CLASSES[command]:
            place = folder_of(group, command)
            sources |= {f"{group}={name}": yaml.safe_load((place / f"{name}.yaml").read_text()) for name in names}
    sources[f"ctwa {command}"] = main_file(command)
    values: dict[str, dict[str, str]] = {}
    for source, content in sources.items():
        keys = {name: part for name, part in content.items() if name not in ("defaults", "hydra")}
        for key in dotted(keys):
            if not isinstance(value := value_at(keys, key), Mapping):
                is_required = str(value).startswith("${ctwa_required:")
                values.setdefault(key, {})[source] = "required" if is_required else shown(value)
    return values


def _list(entries: Sequence[Entry], command: str) -> list[str]:
    """A line each; what several classes have in common is told once."""
    told = dict.fromkeys((each.shown(command), _first_sentence(each.meaning)) for each in entries)
    width = min(60, max(len(key) for key, _ in told))
    return [f"  {key:<{width}}  {meaning}".rstrip() for key, meaning in told]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:])\s", text, maxsplit=1)[0].rstrip(".;:") if text else ""


def _option(command: str) -> str:
    return "" if command == "train" else f" --of {command}"
