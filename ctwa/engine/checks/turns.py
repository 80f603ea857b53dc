"""Several turns: which of verl's agent loops complete the prompts, and the tools that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import ctwa.config
from ctwa.engine.data import DataRow
from ctwa.errors import CtwaError, did_you_mean, neighbour
from ctwa.objectives.contract import shortened

SINGLE_TURN = ("single_turn_agent", "ctwa_single_turn")
"""The agent loops that give one turn."""
TOOL_LOOPS = ("tool_agent", "ctwa_tool_agent")
"""Those with tools, and a parser that finds their calls."""
OF_VERL = ("single_turn_agent", "tool_agent")
"""The loops that verl has by itself; the others are in the file that ``agent_loop_config_path`` names."""

OWN_LOOPS = str(Path(ctwa.config.__file__).with_name("agent_loops.yaml"))
"""The file of ctwa's; they are there beside those of a file of the user's."""

_AGENT, _MULTI_TURN = "actor_rollout_ref.rollout.agent", "actor_rollout_ref.rollout.multi_turn"


def has_turns(config: DictConfig) -> bool:
    """Whether completions may have several turns."""
    return bool(config.actor_rollout_ref.rollout.multi_turn.enable)


def check_turns(config: DictConfig) -> None:
    """See that there are several turns where the agent loop has several, and a rollout that completes them."""
    rollout = config.actor_rollout_ref.rollout
    loop = rollout.agent.default_agent_loop
    if not has_turns(config):
        if loop not in SINGLE_TURN:
            raise CtwaError(
                f"{_AGENT}.default_agent_loop={loop!r} is none with one turn: write {_MULTI_TURN}.enable=true, or "
                f"{' or '.join(SINGLE_TURN)}"
            )
        return
    if rollout.name == "transformers":
        raise CtwaError(
            f"{_MULTI_TURN}.enable=true: generation=transformers completes a prompt in one turn; write "
            f"generation={'vllm_cpu' if config.trainer.device == 'cpu' else 'vllm'}, or false"
        )


def check_loop(config: DictConfig) -> None:
    """See that the agent loop of several turns is there, and its tools: it reads their files."""
    if not has_turns(config):
        return
    rollout = config.actor_rollout_ref.rollout
    loop = rollout.agent.default_agent_loop
    loops = _loops(config)
    if loop not in loops:
        raise CtwaError(f"{_AGENT}.default_agent_loop={loop!r}: {_no_such_loop(loop, loops)}")
    for key in ("tool_config_path", "function_tool_path"):
        path = rollout.multi_turn[key]
        if path is not None and not Path(path).is_file():
            raise CtwaError(
                f"{_MULTI_TURN}.{key}: {path} is no file; give the file of the tools{neighbour(Path(path))}"
            )
    # Tools with a life of their own may know their schema themselves.
    if loop in TOOL_LOOPS and not tool_schemas(config) and rollout.multi_turn.tool_config_path is None:
        raise CtwaError(
            f"{_AGENT}.default_agent_loop={loop!r} has no tools: write {_MULTI_TURN}.function_tool_path=FILE.py with "
            f"functions under @function_tool, or {_MULTI_TURN}.tool_config_path=FILE.yaml"
        )


def check_loops_of_rows(config: DictConfig, rows: Sequence[DataRow]) -> None:
    """See that the loops are there which the data's ``agent_name`` asks for, and that some loop has several turns."""
    several = has_turns(config)
    known = _loops(config) if several else dict.fromkeys(SINGLE_TURN, "")
    named = {config.actor_rollout_ref.rollout.agent.default_agent_loop}
    for each in rows:
        name = each.row.values.get("agent_name")
        if name is not None and name not in known:
            one_turn = f"it has not one turn: write {_MULTI_TURN}.enable=true, {' or '.join(SINGLE_TURN)}"
            said = _no_such_loop(name, known) if several else one_turn
            raise each.error(f"its agent_name asks for the agent loop {name!r}; {said}, or leave the column out")
        named.add(name)
    if several and not named - {None, *SINGLE_TURN}:
        raise CtwaError(
            f"{_MULTI_TURN}.enable=true, but {_AGENT}.default_agent_loop={min(named - {None})} has one turn: write a "
            f"loop with several, such as {TOOL_LOOPS[0]}, or false"
        )


def check_parser(config: DictConfig) -> None:
    """See that verl knows the format in which its own loops look for calls of tools; others may bring a parser."""
    rollout = config.actor_rollout_ref.rollout
    if not has_turns(config) or rollout.agent.default_agent_loop not in TOOL_LOOPS:
        return
    from verl.experimental.agent_loop.tool_parser import ToolParser

    if rollout.multi_turn.format not in ToolParser._registry:
        raise CtwaError(
            f"{_MULTI_TURN}.format={rollout.multi_turn.format} is no format of calls that verl reads: write one of "
            f"{', '.join(sorted(ToolParser._registry))}{did_you_mean(rollout.multi_turn.format, ToolParser._registry)}"
        )


def tool_schemas(config: DictConfig) -> list[dict[str, Any]]:
    """The tools as chat templates write them into a prompt; none without several turns.

    Tools with a life of their own (``tool_config_path``) are read from their file: only the engine starts them.

    Raises:
        CtwaError: a file of tools cannot be read.
    """
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    if not has_turns(config):
        return []
    schemas: list[dict[str, Any]] = []
    if path := multi_turn.tool_config_path:
        content = _read_yaml(path, f"{_MULTI_TURN}.tool_config_path")
        tools = content.get("tools") if isinstance(content, dict) else None
        if not isinstance(tools, list) or not all(isinstance(tool, dict) and "class_name" in tool for tool in tools):
            raise CtwaError(
                f"{_MULTI_TURN}.tool_config_path: {path} has no list of tools; write tools: [{{class_name: ..., "
                "config: {type: native}, tool_schema: ...}]"
            )
        schemas += [tool["tool_schema"] for tool in tools if tool.get("tool_schema")]
    if path := multi_turn.function_tool_path:
        from verl.tools.function_tool import load_function_tools_from_path

        try:
            functions = load_function_tools_from_path(path)
        except Exception as error:  # the user's own code
            raise CtwaError(
                f"{_MULTI_TURN}.function_tool_path: {path} cannot be loaded "
                f"({type(error).__name__}: {shortened(str(error))}); mend it"
            ) from error
        schemas += [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in functions]
    return schemas


def turns_line(config: DictConfig) -> str:
    """What a plan says of the turns."""
    rollout = config.actor_rollout_ref.rollout
    tools = ", ".join(schema["function"]["name"] for schema in tool_schemas(config)) or "as the loop has them"
    most = rollout.multi_turn.max_assistant_turns
    bound = f"at most {most} of the policy's" if most else "as many as the length has room for"
    return f"by {rollout.agent.default_agent_loop}, tools: {tools}; {bound}; only the policy's tokens are trained on"


def _no_such_loop(name: str, loops: Mapping[str, str]) -> str:
    return (
        f"there is no such agent loop: write one of {', '.join(loops)}, or one of your own in the file that "
        f"{_AGENT}.agent_loop_config_path names{did_you_mean(name, loops)}"
    )


def _loops(config: DictConfig) -> dict[str, str]:
    """The agent loops that there are, by name, with the classes of those that verl does not have by itself."""
    return dict.fromkeys(OF_VERL, "") | {entry["name"]: entry["_target_"] for entry in agent_loops(config)}


def agent_loops(config: DictConfig) -> list[dict[str, Any]]:
    """The agent loops beside verl's, as its file has them: ctwa's, and those of the user's file.

    Raises:
        CtwaError: the file, or the module of a class in it, is not there.
    """
    path, key = config.actor_rollout_ref.rollout.agent.agent_loop_config_path, f"{_AGENT}.agent_loop_config_path"
    loops: dict[str, dict[str, Any]] = {}
    for file in dict.fromkeys([OWN_LOOPS, *([] if path is None else [path])]):
        for entry in _read_yaml(file, key) or []:
            if not isinstance(entry, Mapping) or not {"name", "_target_"} <= entry.keys():
                raise CtwaError(f"{key}: {file} has {entry!r}; write a list of entries with name and _target_")
            module = entry["_target_"].rpartition(".")[0]
            if not is_installed(module):
                raise CtwaError(
                    f"{key}: {file} names {entry['_target_']}, but there is no module {module}: put the folder it is "
                    "in on PYTHONPATH"
                )
            loops[entry["name"]] = dict(entry)
    return list(loops.values())


def is_installed(module: str) -> bool:
    """Whether Python finds a module, which may be in a package."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of what it is in
        return False


def _read_yaml(path: str, key: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise CtwaError(f"{key}: {path} cannot be read ({shortened(str(error))}); give a YAML file") from error
