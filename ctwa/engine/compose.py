"""From the overrides of a command line to a configuration whose keys and values can be: without verl or ray.

Hydra composes; what it says of a mistake is said again in one sentence, with the name that was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctwa.data.files import is_local
from ctwa.data.settings import DataSettings
from ctwa.engine.checks.bounds import bounds_of, leaves, out_of_bounds
from ctwa.engine.checks.keys import dotted, known_keys, near_key, verl_files, wrong_keys
from ctwa.engine.choices import MODULES, OURS
from ctwa.engine.groups import SETTINGS, groups_of, register
from ctwa.engine.resolvers import register_resolvers
from ctwa.engine.secrets import keep_expressions, secret_expressions
from ctwa.engine.written import Written, relinked
from ctwa.errors import CtwaError, did_you_mean, shown, told_together

register_resolvers()

WHOLE = "whole_configuration"
"""What Hydra has a whole configuration of the user's by."""


def compose_config(arguments: Sequence[str], *, command: str = "train") -> DictConfig:
    """The resolved configuration of a command with these arguments, all of it within bounds.

    Args:
        arguments: Hydra overrides, and files of settings.
        command: ``train``, ``prefer`` or ``caid``.

    Raises:
        CtwaError: an argument that cannot be read, a key that does not exist or does nothing, a value that is missing
            or out of bounds.
    """
    return compose_written(Written.read(arguments, command), command=command)


def defaults_of(choices: Sequence[str], *, command: str = "train") -> dict[str, Any]:
    """What a command has by its defaults, nested: interpolations are not resolved, and nothing is checked.

    Args:
        choices: of groups, as ``engine=gpu``.
        command: ``train``, ``prefer`` or ``caid``.
    """
    return _plain(_compose(choices, command))


def compose_written(
    written: Written, *, stop_on: Sequence[str] = (), command: str, run: Path | None = None
) -> DictConfig:
    """As :func:`compose_config`, of what was read before.

    Args:
        written: the arguments, read.
        stop_on: alarms that end the run, beside those of the key ``ctwa.stop_on``.
        command: ``train``, ``prefer`` or ``caid``.
        run: another folder of the run, in place of the one that was written.
    """
    parsed = _last_of_each_option(written.parsed())
    known = known_keys(command)
    _refuse_groups(parsed, groups_of(command), known)
    _refuse_types(parsed, groups_of(command))
    with written.naming(), _as_one_sentence(parsed, command, written):
        fields = [override for override in parsed if _is_objectives_field(override, command)]
        lines = _search_path(parsed, command)
        config = _compose(
            [f"++{line}" if each in fields else line for each, line in zip(parsed, lines, strict=True)],
            command,
            written,
        )
        if run is not None:
            config.ctwa.run = str(run)
        _refuse_unknown_objectives(config, fields)
        _refuse_deletions(config, parsed, known, command)
        in_files = [key for file in written.files if not file.is_whole for key in file.settings()]
        settle(config, command, [*(override.key_or_group for override in parsed), *in_files])
    given = config.ctwa.stop_on
    config.ctwa.stop_on = list(dict.fromkeys([*([given] if isinstance(given, str) else given), *stop_on]))
    return config


def settle(config: DictConfig, command: str, written: Sequence[str] = ()) -> None:
    """Refuse what a composed configuration cannot be; then resolve its interpolations and make its paths absolute.

    A secret of the environment stays an expression, which has its value wherever it is looked at.

    Args:
        config: as composed; changed in place.
        command: whose it is.
        written: the keys the user wrote: of several mistakes those in them are told, and not what follows from them.

    Raises:
        CtwaError: a key that does not exist or does nothing, a value that is missing or out of bounds.
    """
    raw, known = _plain(config), known_keys(command)
    _tell(wrong_keys(raw, known, lambda key: near_key(key, _names(raw, command))), written)
    _refuse_missing(raw)
    secrets = secret_expressions(config)
    _resolve(config, raw, written)
    keep_expressions(config, secrets)
    ours = bounds_of(SETTINGS[command], "ctwa") | bounds_of(DataSettings, "data")
    _tell(out_of_bounds(_plain(config), ours), written)
    _make_absolute(config)


def _compose(overrides: Sequence[str], command: str, written: Written | None = None) -> DictConfig:
    register(command)
    name, first = command, []
    if written is not None and written.whole is not None:
        base = defaults_of(["task=custom"], command=command)
        name, chosen = WHOLE, [each for each in overrides if each.partition("=")[0] in groups_of(command)]
        ConfigStore.instance().store(name, relinked(written.whole.content, base), provider="ctwa")
        overrides = [f"+{each}" if each in chosen else each for each in overrides]
    elif written is not None:
        first = [f"{group}={shown(choice)}" for group, choice in written.choices(command).items()]
        for number, file in enumerate(written.files):
            # After all that is chosen, so that a file has the last word but for the command line.
            group = f"settings_file_{number}"
            ConfigStore.instance().store("it", file.content, group, package="_global_", provider=file.path)
            first.append(f"+{group}=it")
    with initialize_config_module(MODULES[command], version_base=None):
        return compose(name, overrides=[*first, *overrides])


def _is_objectives_field(override: Override, command: str) -> bool:
    """Whether it sets a field with a default of an objective: it may, also where the task that has it does not."""
    names = override.key_or_group.split(".")
    if names[:2] != ["ctwa", "objectives"] or len(names) < 4 or override.type is not OverrideType.CHANGE:
        return False
    _, objective = get_args(SETTINGS[command].model_fields["objectives"].annotation)
    field = objective.model_fields.get(names[3])
    return field is not None and not field.is_required()


def _refuse_unknown_objectives(config: DictConfig, fields: Sequence[Override]) -> None:
    """An objective of which these fields are all that is said has a misspelt name."""
    objectives = (_plain(config).get("ctwa") or {}).get("objectives") or {}
    said = {tuple(override.key_or_group.split(".")[2:4]) for override in fields}
    for override in fields:
        _, _, name, *field = override.key_or_group.split(".")
        if {(name, each) for each in objectives.get(name) or ()} <= said:
            others = [".".join(["ctwa.objectives", other, *field]) for other in objectives if other != name]
            raise CtwaError(_no_key(override.key_or_group, others))


def _search_path(parsed: Sequence[Override], command: str) -> list[str]:
    """The overrides, with a search path of the user's own put before ours."""
    lines = []
    for override in parsed:
        if override.key_or_group != "hydra.searchpath":
            lines.append(override.input_line)
            continue
        own = override.value()
        if not isinstance(own, list) or not all(isinstance(place, str) for place in own):
            raise CtwaError(
                f"hydra.searchpath={shown(own)} is not possible: write a list, e.g. [file:///home/me/mytasks]"
            )
        for place in own:
            if "://" not in place.removeprefix("file://") and not Path(place.removeprefix("file://")).is_dir():
                raise CtwaError(
                    f"hydra.searchpath: there is no folder {place}: give one that holds e.g. task/mine.yaml"
                )
        # As in the command's own file, whose search path this takes the place of.
        places = [*own, *(["pkg://ctwa.config"] if MODULES[command] != "ctwa.config" else []), f"file://{verl_files()}"]
        lines.append(f"hydra.searchpath=[{','.join(map(repr, places))}]")
    return lines


def _last_of_each_option(parsed: Sequence[Override]) -> list[Override]:
    """Of an option of the method that is given again, as after a recipe's, the last: Hydra would merge names."""
    given = [each for each in parsed if each.type is OverrideType.CHANGE and each.key_or_group[:12] == "ctwa.method."]
    last = {each.key_or_group: each for each in given}
    return [each for each in parsed if each not in given or last[each.key_or_group] is each]


def _refuse_deletions(config: DictConfig, parsed: Sequence[Override], known: Mapping[str, Any], command: str) -> None:
    """What is empty by default may be deleted, and a section that is written anew (``~ctwa.x +ctwa.x={...}``)."""
    empty = {f"ctwa.{key}" for key, default in known["ctwa"].items() if default in ({}, None)}
    needed = {*dotted(known), *groups_of(command)} - empty
    chosen = {override.key_or_group for override in parsed if not override.is_delete()} & {*groups_of(command)}
    there = {*dotted(_plain(config)), *chosen}
    for override in parsed:
        key = override.key_or_group
        if override.is_delete() and key in needed and key not in there:
            raise CtwaError(f"{override.input_line} deletes a key that is needed: write {key}=VALUE, or leave it out")


def _resolve(config: DictConfig, raw: Mapping[str, Any], written: Sequence[str]) -> None:
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        if isinstance(error.__context__, CtwaError):  # of a resolver of ours: it says all there is to say
            raise error.__context__ from None
        broken = {key: value for key, value in leaves(raw) if "${" in str(value) and not _resolves(config, key)}
        key = next((key for key in written if key in broken), next(iter(broken), ""))
        raise CtwaError(f"{key}={broken.get(key)} has no value: {_first_lines(error)}") from None


def _resolves(config: DictConfig, key: str) -> bool:
    try:
        OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return False
    return True


def _refuse_missing(raw: Mapping[str, Any]) -> None:
    values = dict(leaves(raw))
    # verl's own file of defaults has a ??? in a part that no run of ctwa reads.
    if missing := sorted(key for key, value in values.items() if value == "???" and not key.startswith("reward.")):
        raise CtwaError("give a value for " + ", ".join(missing))
    inside = [key for key, value in values.items() if "${ctwa.task_dir}" in str(value)]
    if inside and values.get("ctwa.task_dir") is None:
        raise CtwaError(f"ctwa.task_dir is missing, and {', '.join(inside)} are in it: give the folder")


def _names(raw: Mapping[str, Any], command: str) -> list[str]:
    """Every key there may be: of the files, of the groups' choices, and the groups themselves."""
    ours = raw.get("ctwa")
    node = dotted(ours if isinstance(ours, Mapping) else {}, "ctwa.")
    return [*dotted(known_keys(command)), *node, *groups_of(command)]


def _tell(wrong: Mapping[str, str], written: Sequence[str]) -> None:
    """Refuse what is wrong: what the user wrote, where that is among it, and not what follows from it."""
    own = [text for key, text in wrong.items() if any(_is_within(key, each) for each in written)]
    if told := own or list(wrong.values()):
        raise told_together(told)


def _is_within(key: str, other: str) -> bool:
    """Whether one of two keys is the other, or in it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


@contextmanager
def _as_one_sentence(parsed: Sequence[Override], command: str, written: Written) -> Iterator[None]:
    """What Hydra and OmegaConf refuse, in our words."""
    try:
        yield
    except CtwaError:
        raise
    except MissingConfigException as error:
        raise _no_such_choice(error, command) from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError, UnicodeError, ValueError) as error:
        for override in parsed:
            _refuse_key(override, str(error), parsed, command, written)
        raise CtwaError(f"the configuration cannot be composed: {_first_lines(error)}") from error


def _no_such_choice(error: MissingConfigException, command: str) -> CtwaError:
    group, _, given = str(error.missing_cfg_file).rpartition("/")
    # verl has groups of its own, one by the name of one of ours; and some of ctwa.config's are another command's.
    others = [verl_files(), Path(str(files("ctwa.config")))]
    options = [
        each
        for each in error.options or ()
        if each in groups_of(command).get(group, ())
        or not any((folder / group / f"{each}.yaml").is_file() for folder in others)
    ]
    if not options:
        return CtwaError(f"the configuration cannot be composed: {_first_lines(error)}")
    return CtwaError(f"{group}={given} is no choice: write one of {', '.join(options)}{did_you_mean(given, options)}")


def _refuse_groups(parsed: Sequence[Override], groups: Mapping[str, Sequence[str]], known: Mapping[str, Any]) -> None:
    """Hydra has no sentence for a group that is given a number or several choices, and merges a list of them."""
    for override in parsed:
        group, value = override.key_or_group, override.value() if not override.is_delete() else ""
        if override.is_sweep_override():
            instead = "write one" if group in groups else "write one, or a list in brackets"
            raise CtwaError(
                f"{override.input_line} gives several values, and one command is one run (of `ctwa train`, one for "
                f"each of several methods): {instead}"
            )
        if group in groups and not isinstance(value, str):
            raise CtwaError(f"{group}={shown(value)} is no choice: write one of {', '.join(groups[group])}")
        if isinstance(known.get(group), Mapping) and not isinstance(value, str | Mapping | list):
            raise _is_a_section(override)


def _refuse_types(parsed: Sequence[Override], groups: Mapping[str, Sequence[str]]) -> None:
    """A group brings the options of its choice: another type over them would have the options of both."""
    for override in parsed:
        section, _, name = override.key_or_group.removeprefix("ctwa.").partition(".")
        if name == "type" and section in OURS and section in groups and not override.is_delete():
            raise CtwaError(
                f"{override.input_line} would leave the options of another {section}: write {section}="
                f"{override.get_value_string()}"
            )


def _refuse_key(override: Override, said: str, parsed: Sequence[Override], command: str, written: Written) -> None:
    key = override.key_or_group
    if said.startswith(f"Error merging override {override.input_line}"):
        raise _is_a_section(override)
    if said.startswith(f"Could not append to config. An item is already at '{key}'"):
        raise CtwaError(f"{key} is there already: write {override.input_line.lstrip('+')}, without a plus")
    if not said.startswith((f"Could not override '{key}'", f"Could not delete from config. '{key}'")):
        return
    if isinstance(given := override.value(), dict) and key in (known := dotted(known_keys(command))):
        inside = [name for name in known if name.startswith(f"{key}.")]
        if wrong := next((f"{key}.{name}" for name in given if inside and f"{key}.{name}" not in inside), None):
            raise CtwaError(f"{wrong} is no key of the configuration{near_key(wrong, inside)}")
        raise CtwaError(f"{override.input_line} gives {key} new names: write ++{override.input_line.lstrip('+')}")
    # Composed once more, for the keys that the chosen method and task bring.
    groups = groups_of(command)
    chosen = [each.input_line for each in parsed if each.key_or_group in groups or each.key_or_group[:6] == "hydra."]
    names = _names({"ctwa": _plain(_compose(chosen, command, written).ctwa)}, command)
    if (option := ".".join(key.split(".")[:3])) in names and option.startswith("ctwa.method."):
        raise CtwaError(
            f"{override.input_line} has names that {option} has not yet: write ++{override.input_line.lstrip('+')}, "
            "which adds them, or the whole option in one place"
        )
    raise CtwaError(_no_key(key, names))


def _is_a_section(override: Override) -> CtwaError:
    key = override.key_or_group
    return CtwaError(f"{key}={shown(override.value())} is not possible, for it is a section: write {key}.<key>=<value>")


def _no_key(key: str, names: Sequence[str]) -> str:
    new = f" (a new one is written with a plus, +{key}=...)" if key.startswith("ctwa.objectives.") else ""
    return f"{key} is no key of the configuration{near_key(key, names)}{new}"


def _plain(config: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(config, resolve=False)
    return container


def _first_lines(error: Exception) -> str:
    lines = (line.strip() for line in (str(error) or str(error.__cause__)).splitlines())
    return " ".join([line for line in lines if not line.startswith(("full_key:", "object_type="))][:3])


def _absolute(files: Any) -> list[str]:
    paths = [files] if isinstance(files, str) else files
    return [str(Path(path).expanduser().absolute()) if is_local(path) else path for path in paths]


def _make_absolute(config: DictConfig) -> None:
    """Worker processes may have another working directory."""
    config.ctwa.run = str(Path(config.ctwa.run).expanduser().absolute())
    config.trainer.default_local_dir = str(Path(config.ctwa.run) / "checkpoints")
    for key in ("train_files", "val_files"):
        given = config.data[key]
        if isinstance(given, DictConfig):  # validation files by name
            config.data[key] = {name: _absolute(files) for name, files in given.items()}
        elif given is not None:
            config.data[key] = _absolute(given)
    rollout = config.actor_rollout_ref.rollout
    for node, key in (
        (rollout.agent, "agent_loop_config_path"),
        (rollout.multi_turn, "tool_config_path"),
        (rollout.multi_turn, "function_tool_path"),
    ):
        if node[key] is not None:
            node[key] = str(Path(node[key]).expanduser().absolute())
    model = Path(config.actor_rollout_ref.model.path).expanduser()
    if model.exists():
        config.actor_rollout_ref.model.path = str(model.absolute())
