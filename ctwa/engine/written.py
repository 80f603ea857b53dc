"""What the user wrote: settings on the command line, and in files.

A file of settings is what one writes on the command line, as YAML: groups by name, and keys nested as a configuration
has them. The ``config.yaml`` of a run is one too, but a whole configuration, under which no group lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctwa.engine.checks.bounds import leaves
from ctwa.engine.checks.keys import dotted, known_keys, near_key
from ctwa.engine.choices import OURS
from ctwa.engine.groups import groups_of, node_of
from ctwa.errors import CtwaError, neighbour, shown
from ctwa.run.dotted import dotted as values_of

Content = dict[str, Any]

COMMAND_LINE = "command line"
HOW = "settings are written KEY=VALUE, e.g. trainer.total_training_steps=60 (docs/training.md)"


@dataclass(frozen=True)
class SettingsFile:
    """A file of settings.

    Attributes:
        path: as the user wrote it.
        groups: the choices in it, by group.
        content: the keys in it, nested; the interpolations are not resolved.
        is_whole: whether it is a whole configuration, as a run's ``config.yaml`` is.
    """

    path: str
    groups: Mapping[str, str]
    content: Content
    is_whole: bool = False

    @classmethod
    def read(cls, path: str, command: str) -> Self:
        """Read one.

        Raises:
            CtwaError: the file, what is wrong with it, and where.
        """
        content = load_settings(path)
        for key, instead in {
            "defaults": "it is of Hydra's task files: write e.g. `task: custom` in its place",
            "hydra": "Hydra's own keys are for the command line: leave it out",
        }.items():
            if key in content:
                raise CtwaError(f"{path}: {key} is no setting, for {instead} (docs/training.md)")
        _refuse_no_sections(path, content, known_keys(command))
        ours = content.get("ctwa", {})
        if set(known_keys(command)) - {"model_engine"} <= set(content) and ours:
            return cls(path, {}, content | {"ctwa": node_of(command) | dict(ours)}, is_whole=True)
        groups = {group: _choice(path, group, content.pop(group)) for group in groups_of(command) if group in content}
        return cls(path, groups, content)

    def chosen(self, group: str) -> str | None:
        """What the file chooses of a group that fills a section: by the group's name, or by the ``type`` there."""
        section = (self.content.get("ctwa") or {}).get(group)
        kind = section.get("type") if isinstance(section, Mapping) else None
        named = self.groups.get(group)
        if named is not None and kind not in (None, named):
            raise CtwaError(f"{self.path}: {group}={named}, but ctwa.{group}.type={shown(kind)}: write one of the two")
        return named or kind

    def without(self, group: str) -> Self:
        """The file without a section that a group fills, whose options are another choice's."""
        ours = {key: value for key, value in self.content["ctwa"].items() if key != group}
        return replace(
            self,
            groups={key: name for key, name in self.groups.items() if key != group},
            content=self.content | {"ctwa": ours},
        )

    def settings(self) -> dict[str, Any]:
        """Everything in it, by group or dotted key."""
        return {**self.groups, **dict(leaves(self.content))}


def load_settings(path: str) -> Content:
    """What a file of settings holds: keys nested, interpolations as they stand.

    Raises:
        CtwaError: it cannot be read, and where it is wrong.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise CtwaError(f"{path} {what}; give a YAML file of settings{neighbour(file)}")
    try:
        loaded = OmegaConf.load(file)
        written = OmegaConf.to_container(loaded, resolve=False)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CtwaError(f"{path}{where}: this is not YAML ({error.problem}); mend it") from error
    except RecursionError:
        raise CtwaError(f"{path} cannot be read: it is nested too deeply, or holds itself; mend it") from None
    except (OSError, UnicodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        why = str(error).partition("\n")[0]
        raise CtwaError(f"{path} cannot be read as YAML ({why}); give a file of keys with values") from error
    if not isinstance(loaded, DictConfig):
        raise CtwaError(f"{path} holds a list; write keys with values, as in docs/training.md")
    assert isinstance(written, dict)
    _refuse_odd_numbers(path, file)
    content = DictConfig({})
    for key, value in written.items():
        if not isinstance(key, str) or not key.strip(". "):
            raise CtwaError(f"{path}: {shown(key)} is no key of the configuration; write a name")
        # A dotted key is the nested one, as on the command line.
        OmegaConf.update(content, key, value, merge=True, force_add=True)
    container: Any = OmegaConf.to_container(content, resolve=False)
    return container


_ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]*[0-7]|[1-9][\d_]*(:[0-5]?\d)+(\.[\d_]*)?)")


def _refuse_odd_numbers(path: str, file: Path) -> None:
    """Refuse numbers that YAML 1.1 counts by 8 (010) or 60 (1:30), which their writer hardly does."""
    for token in yaml.scan(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(token, yaml.ScalarToken) and token.plain and _ODD_NUMBER.fullmatch(token.value):
            raise CtwaError(
                f"{path}, line {token.start_mark.line + 1}: YAML reads {token.value} as {yaml.safe_load(token.value)}; "
                "write that number, or the text in quotes"
            )


def _refuse_no_sections(path: str, content: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a list or a number where a section is to be; a text may be an interpolation, and null a deletion."""
    for name, value in content.items():
        inside = known.get(name)
        if not isinstance(inside, Mapping):
            continue
        if isinstance(value, Mapping):
            _refuse_no_sections(path, value, inside, f"{prefix}{name}.")
        elif not isinstance(value, str | None) or f"{prefix}{name}" == "ctwa":
            key = f"{prefix}{name}={shown(value)}"
            raise CtwaError(f"{path}: {key} is not possible, for it is a section: write keys in it")


def _choice(path: str, group: str, given: object) -> str:
    name = {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given  # YAML's own words
    if not isinstance(name, str):
        raise CtwaError(f"{path}: {group}={shown(given)} is no choice; write the name of one")
    if "," in name:
        raise CtwaError(f"{path}: {group}={name} names several, which only method can, and on the command line")
    return name


@dataclass(frozen=True)
class Written:
    """All that the user wrote of a run.

    Attributes:
        files: in their order; a later one counts more.
        overrides: of the command line, in Hydra's syntax; they count more than the files.
        left_out: sections of files that belong to what the command line has chosen otherwise.
    """

    files: tuple[SettingsFile, ...]
    overrides: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def read(cls, arguments: Sequence[str], command: str) -> Self:
        """Read the files among the arguments of a command.

        Raises:
            CtwaError: a file that cannot be read, or that does not go with the other arguments.
        """
        overrides = tuple(each for each in arguments if not _is_file(each))
        on_command_line = dict(each.split("=", 1) for each in overrides if "=" in each)
        for group in groups_of(command):
            if _is_file(given := on_command_line.get(group, "")):
                raise CtwaError(f"{group}={given} is no choice: write the file without {group}=, as {given}")
        files, left_out = [], []
        for file in (SettingsFile.read(each, command) for each in arguments if _is_file(each)):
            for group in set(OURS) & set(groups_of(command)):
                chosen, instead = file.chosen(group), on_command_line.get(group)
                if None not in (chosen, instead) and chosen != instead:
                    left_out.append(f"{file.path}: ctwa.{group}, the options of {chosen}")
                    file = file.without(group)
            files.append(file)
        whole = next((file for file in files if file.is_whole), None)
        if whole is not None:
            _check_whole(whole, len(files), [group for group in groups_of(command) if group in on_command_line])
        return cls(tuple(files), overrides, tuple(left_out))

    @property
    def whole(self) -> SettingsFile | None:
        """The whole configuration among the files, which is then the only one."""
        return self.files[0] if self.files and self.files[0].is_whole else None

    def choices(self, command: str) -> dict[str, str]:
        """The groups that the files choose; with a file the task is one's own, unless it says another."""
        if not self.files or self.whole:
            return {}
        choices = {"task": "custom"}
        for file in self.files:
            kinds = {group: file.chosen(group) for group in OURS if group in groups_of(command)}
            choices |= dict(file.groups) | {group: name for group, name in kinds.items() if name is not None}
        named = {each.partition("=")[0] for each in self.overrides}
        return {group: name for group, name in choices.items() if group not in named}

    def parsed(self) -> list[Override]:
        """The overrides as Hydra reads them.

        Raises:
            CtwaError: one that is no setting, or that cannot be read.
        """
        parser = OverridesParser.create()
        return [override for each in self.overrides for override in _parsed(each, parser)]

    def over(self, defaults: Sequence[str]) -> Self:
        """The same over settings that count less than any file or override: those of keys that no file gives."""
        given = [key for file in self.files for key in file.settings()]
        keys = {each: each.partition("=")[0] for each in defaults}
        left = [each for each, key in keys.items() if not any(f"{one}.".startswith(f"{key}.") for one in given)]
        return replace(self, overrides=(*left, *self.overrides))

    @contextmanager
    def naming(self) -> Iterator[None]:
        """A sentence about a key that a file has given begins with the file."""
        try:
            yield
        except CtwaError as error:
            told = re.sub(r"^( *)([\w.]+)", self._with_file, str(error), flags=re.MULTILINE)
            told = re.sub(r"settings_file_(\d+)/it", lambda found: self.files[int(found[1])].path, told)
            if told == str(error):
                raise
            raise CtwaError(told) from error.__cause__

    def _with_file(self, found: re.Match[str]) -> str:
        key, owner = found[2].rstrip("."), None
        for file in self.files:
            settings = file.settings()
            if key in settings or any(each.startswith(f"{key}.") and "." in key for each in settings):
                owner = file.path
        overridden = {each.partition("=")[0].lstrip("+~") for each in self.overrides}
        return f"{found[1]}{owner}: {found[2]}" if owner and key not in overridden else found[0]

    def lines(self) -> list[str]:
        """Which of them gave what, for people; without files there is nothing to be told."""
        if not self.files:
            return []
        given: dict[str, list[tuple[str, str]]] = {}
        for file in self.files:
            if not file.is_whole:
                for key, value in file.settings().items():
                    given.setdefault(key, []).append((file.path, shown(value)))
        for each in self.overrides:
            key, _, value = each.partition("=")
            given.setdefault(key.lstrip("+"), []).append((COMMAND_LINE, value))
        width = max(len(source) for source in (COMMAND_LINE, *(file.path for file in self.files)))
        lines = [f"  {file.path:<{width}}  the whole configuration" for file in self.files if file.is_whole]
        for key, by in given.items():
            source, value = by[-1]
            before = f"  ({', '.join(f'{value} in {source}' for source, value in by[:-1])})" if by[:-1] else ""
            lines.append(f"  {source:<{width}}  {key}={value}{before}")
        return ["settings:", *lines, *(f"  left out: {each}" for each in self.left_out)]


def _parsed(override: str, parser: OverridesParser) -> list[Override]:
    name, equals, _ = override.partition("=")
    if name.startswith("-"):
        key = near_key(name.strip("-"), dotted(known_keys("train")))
        raise CtwaError(f"there is no option {name}: {HOW}{key}")
    if not equals and not name.startswith("~"):
        raise CtwaError(f"{override!r} is no setting: {HOW}")
    if not name.lstrip("+~").strip():
        raise CtwaError(f"{override!r} names no key: {HOW}")
    if name.lstrip("+~").startswith("hydra.") and name != "hydra.searchpath":
        raise CtwaError(f"{name} does nothing here: leave it out (of Hydra's keys only hydra.searchpath counts)")
    try:
        parsed: list[Override] = parser.parse_overrides([override])
    except OverrideParseException:
        if odd := re.search(r"[^\w.@:/$+~-]", name):
            raise CtwaError(f"{override!r}: a key is names with dots between, and '{odd[0]}' is in none") from None
        if "/" in name and "." in name:
            raise CtwaError(f"{name.lstrip('+')} is no key of the configuration: a name has no '/'") from None
        raise CtwaError(
            f"the setting {override!r} cannot be read: put a value with spaces, quotes, brackets, commas or ~ in "
            f"quotes of its own, e.g. \"{name.lstrip('+')}='a value'\""
        ) from None
    return parsed


def _is_file(argument: str) -> bool:
    return argument.endswith((".yaml", ".yml")) and "=" not in argument


def _check_whole(whole: SettingsFile, num_files: int, groups: Sequence[str]) -> None:
    if num_files > 1:
        raise CtwaError(f"{whole.path} is a whole configuration, beside which no other file counts: give it alone")
    if wrong := [group for group in groups if group not in OURS]:
        raise CtwaError(
            f"{wrong[0]} cannot be chosen beside {whole.path}, a whole configuration in which it is chosen: write the "
            "keys that are to differ, or leave the file out"
        )


def relinked(content: Content, base: Content) -> Content:
    """A whole configuration whose values follow from others again, where they do by default and did in it.

    Without this, another ``ctwa.seed`` or ``ctwa.run`` would not reach what was made of it when the run began.

    Args:
        content: resolved, as a run left it.
        base: the default configuration, whose interpolations are not resolved.
    """
    config, there = OmegaConf.create(content), values_of(content)  # a list that follows is one value
    for key, link in leaves(base):
        if key not in there or not isinstance(link, str) or "${" not in link:
            continue
        OmegaConf.update(config, key, link)
        try:
            follows = _same(OmegaConf.select(config, key), there[key])
        except OmegaConfBaseException:
            follows = False
        is_ours = link.startswith("${ctwa_config_dir:}") and str(there[key]).endswith(link.partition("}")[2])
        if not follows and not is_ours:  # a file of ours is where this ctwa is
            OmegaConf.update(config, key, there[key])
    container: Any = OmegaConf.to_container(config, resolve=False)
    return container


def _same(one: object, other: object) -> bool:
    """Whether they are equal; a run's folder was made absolute after what follows from it was written."""
    is_end = isinstance(one, str) and isinstance(other, str) and one.endswith(f"/{other.removeprefix('./')}")
    return one == other or is_end
