"""A verl run as settings of ctwa: verl's own keys stay, and what ctwa has another word for is translated.

Nothing is left out in silence: every key that is translated, left out or added has a line that says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import OverrideParseException

from ctwa.engine.checks.keys import known_keys, unread, verl_files
from ctwa.engine.compose import defaults_of
from ctwa.engine.written import load_settings
from ctwa.errors import CtwaError, shown
from ctwa.run.dotted import dotted

_FUNCTION = "reward.custom_reward_function"
_BUILT_IN = "verl.utils.reward_score:default_compute_score"
_MANAGERS = ("naive", "gdpo")
"""verl's reward managers that hand on what the reward function returns."""
_SERVERS = ("vllm", "sglang", "trtllm")
"""Whose servers complete prompts for verl."""
_OTHER_ENGINES = ("megatron", "torchtitan", "veomni")
"""What trains for verl beside FSDP."""
_HYDRAS = ("defaults", "hydra.")
_GIVEN_BY_USER = ("data.train_files", "data.val_files", "actor_rollout_ref.model.path")
_KEPT = "trainer.max_actor_ckpt_to_keep"
_WRITTEN_OUT = {
    "cpu": (_KEPT,),
    "gpu": (_KEPT, "trainer.n_gpus_per_node", "actor_rollout_ref.rollout.tensor_model_parallel_size"),
}
"""By engine, the keys beside a task's that keep verl's default: what a run leaves behind, and the GPUs it takes."""
_NO_VALUE = re.compile(r"\$\{|^\?\?\?$")
"""A default of verl's that follows from another key, or that has to be given."""
_FOLLOWS = re.compile(r"\$\{ctwa(\.|_config_dir:)")
"""A default of ctwa's that follows from its own keys, as a seed does, or that is a file of its own."""

_RENAMED = {
    "reward.num_workers": "ctwa.rewards.num_workers",
    "trainer.default_local_dir": "ctwa.run",
    "data.seed": "ctwa.seed",
}
_LEFT_OUT = {
    "trainer.resume_mode": "write ctwa.resume=true to resume",
    "trainer.project_name": "the run's folder names it",
    "trainer.experiment_name": "the run's folder names it",
    "actor_rollout_ref.rollout.prompt_length": "it is data.max_prompt_length",
    "actor_rollout_ref.rollout.response_length": "it is data.max_response_length",
    "data.reward_fn_key": "the data source is the column data_source; data.columns={data_source: NAME} names another",
    "critic.*": "no method has a critic",
    "reward_model.*": "an older verl's words; a reward model is called by a reward function",
    "reward.reward_kwargs*": "verl's reward manager dapo alone reads them",
    **{
        f"actor_rollout_ref.rollout.engine_kwargs.{name}*": f"no server of {name} is started"
        for name in _SERVERS
        if name != "vllm"
    },
}
"""What says nothing in a run of ctwa, and why."""
_MOST_NAMED = 5  # keys of one section
_OLDER = {
    "custom_reward_function.": "reward.custom_reward_function.",
    "sandbox_fusion.": "reward.sandbox_fusion.",
    "ray_init.": "ray_kwargs.ray_init.",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
    "reward_model.reward_loop_class_name": "reward.reward_manager.module.name",
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "reward_model.model.path": "reward.reward_model.model_path",
    "reward_model.rollout.": "reward.reward_model.rollout.",
    **{
        f"reward_model.{key}": f"reward.reward_model.{key}"
        for key in ("enable", "enable_resource_pool", "n_gpus_per_node", "nnodes")
    },
}
"""How older scripts call what verl 0.9.1 has: how such a key begins, and what it is today."""


@dataclass
class Translation:
    """What came of a verl run.

    Attributes:
        settings: by dotted key, those of ``ctwa train``.
        notes: a sentence for each key that did not stay as it was.
    """

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A file of settings, with the notes above."""
        nested: dict[str, Any] = {}
        for key, value in self.settings.items():
            *sections, name = key.split(".")
            node = nested
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = value
        # A value may have line breaks, behind which no comment would go on.
        notes = "".join(f"# {' '.join(note.split())}\n" for note in ["Made by `ctwa from-verl`.", *self.notes])
        return notes + yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, width=120)


def translate(arguments: Sequence[str]) -> Translation:
    """The settings of ``ctwa train`` for the arguments of ``python -m verl.trainer.main_ppo``.

    Args:
        arguments: overrides, in Hydra's syntax, and YAML files of verl's keys.

    Raises:
        CtwaError: an argument that cannot be read, or that has no counterpart.
    """
    said = _read(arguments)
    _refuse_other_engines(said)
    made = Translation({})
    chosen = {"engine": _engine(said, made), "task": "custom", "method": _method(said, made)}
    ours = _objectives(said, made)
    for key, name in _RENAMED.items():
        if (value := said.pop(key, None)) is not None:
            ours[name] = value
            made.notes.append(f"{key} is {name} here")
    gone: dict[str, Any] = {}
    for pattern, why in _LEFT_OUT.items():
        section = pattern.removesuffix("*")
        keys = [key for key in said if key == pattern or (section != pattern and key.startswith(section))]
        values = {key: said.pop(key) for key in keys}
        gone |= values
        if len(keys) > _MOST_NAMED:
            made.notes.append(f"{pattern}, {len(keys)} keys, is left out: {why}")
            continue
        made.notes += [f"{key}={shown(value)} is left out: {why}" for key, value in values.items()]
    for key in [*said]:
        if instead := unread(key, said[key], known_keys("train")):
            advice = f": {instead}" if instead.startswith("write") else ""
            made.notes.append(f"{key}={shown(said[key])} is left out, for nothing reads it{advice}")
            gone[key] = said.pop(key)
    made.settings = {**chosen, **ours, **said, **_defaults(said, chosen, made)}
    for key, value in made.settings.items():
        made.settings[key] = _spelled_out(value, gone)
    for key in made.settings:
        for place, sign in enumerate(key):
            if sign == "." and (section := key[:place]) in made.settings:
                raise CtwaError(
                    f"{section}={shown(made.settings[section])} is a value where {key} needs a section: "
                    f"write {section}'s keys one by one, or leave it out"
                )
    return made


def _spelled_out(value: Any, gone: Mapping[str, Any]) -> Any:
    """A value with what it took from keys that are left out: a folder, say, is called after a project."""
    if isinstance(value, str):
        for key, other in gone.items():
            value = value.replace(f"${{{key}}}", "null" if other is None else str(other))
    return value


def _read(arguments: Sequence[str]) -> dict[str, Any]:
    """What is written, by dotted key; the command line has the last word, as in verl."""
    in_files: dict[str, Any] = {}
    on_command_line: dict[str, Any] = {}
    parser = OverridesParser.create()
    for each in arguments:
        if each.startswith("--config"):
            _refuse_other_engine(each, each)
    for each in arguments:
        if each.endswith((".yaml", ".yml")) and "=" not in each:
            found = dotted(load_settings(each))
            _refuse_other_engine(f"{found.get('defaults')}", f"{each}: what is under defaults")
            in_files |= {key: value for key, value in found.items() if not key.startswith(_HYDRAS)}
            continue
        if each.startswith("--config"):
            raise CtwaError(
                f"{each}: give the YAML file itself, e.g. ctwa from-verl my_config.yaml, or nothing in its place where "
                "it is verl's own ppo_trainer.yaml"
            )
        try:
            (override,) = parser.parse_overrides([each])
            if not override.key_or_group:
                raise OverrideParseException(each, "it names no key")
        except OverrideParseException:
            raise CtwaError(
                f"{each!r} is no setting of verl's: give KEY=VALUE, as for main_ppo, or a YAML file"
            ) from None
        if override.is_delete() or override.is_sweep_override():
            raise CtwaError(f"{each} cannot be translated: leave it out, and write one value for each key")
        if override.package is not None or "/" in override.key_or_group:
            raise CtwaError(
                f"{each} chooses a file of verl's configuration: write its keys one by one, or give that file"
            )
        on_command_line[override.key_or_group] = _plain(override.value())
    said = in_files | on_command_line
    older = {key: today for key in said if (today := _today(key)) != key}
    return {key: value for key, value in said.items() if key not in older} | {
        today: said[key] for key, today in older.items() if said[key] is not None
    }


def _today(key: str) -> str:
    """A key as verl 0.9.1 calls it; the older one, which is null until it is set, has the last word there."""
    for before, today in _OLDER.items():
        if key == before or (key.startswith(before) and (before[-1] == "." or key[len(before)] == ".")):
            return today + key.removeprefix(before)
    return key


def _plain(value: Any) -> Any:
    """A value of Hydra's grammar as YAML has it."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _refuse_other_engines(said: Mapping[str, Any]) -> None:
    for key, value in said.items():
        if key.startswith("actor_rollout_ref.") or key == "model_engine":
            _refuse_other_engine(key, f"{key}={shown(value)}")
            if key.endswith((".strategy", "model_engine")):
                _refuse_other_engine(f"{value}", f"{key}={shown(value)}")


def _refuse_other_engine(words: str, said: str) -> None:
    """Refuse what is said where one of its words is the name of an engine."""
    for name in {*re.split(r"\W|_", words)} & {*_OTHER_ENGINES}:
        raise CtwaError(
            f"{said} is of verl's engine {name}, and models are trained by FSDP here: write settings of verl's "
            f"ppo_trainer.yaml, without those of {name} (docs/cluster.md has what saves memory)"
        )


def _engine(said: dict[str, Any], made: Translation) -> str:
    """The group that chooses machine and rollout; what it chooses is not said twice."""
    key, servers = "actor_rollout_ref.rollout.name", {"gpu": "vllm", "cpu": "transformers"}
    engine = "cpu" if said.get("trainer.device") == "cpu" else "gpu"
    if (name := said.get(key)) in _SERVERS:
        del said[key]
        if name != servers[engine]:
            made.notes.append(f"{key}={name} is {servers[engine]} here, whose servers engine: {engine} starts")
    return engine


def _method(said: dict[str, Any], made: Translation) -> str:
    estimator = said.setdefault("algorithm.adv_estimator", "gae")
    if estimator == "gae":
        raise CtwaError(
            "algorithm.adv_estimator=gae, verl's default where none is written, needs a critic, and no method has one: "
            "write algorithm.adv_estimator=grpo, or another that needs none"
        )
    if estimator != "gdpo":
        made.notes.append("method: linear is the weighted sum of the objectives, which GRPO trains on")
        return "linear"
    said["algorithm.adv_estimator"] = "grpo"
    made.notes.append(
        "algorithm.adv_estimator=gdpo is method: gdpo, with the estimator grpo for each objective; at the end ctwa "
        "standardises over completions, verl over tokens (docs/methods/gdpo.md)"
    )
    return "gdpo"


def _objectives(said: dict[str, Any], made: Translation) -> dict[str, Any]:
    path, name = said.pop(f"{_FUNCTION}.path", None), said.pop(f"{_FUNCTION}.name", None) or "compute_score"
    function = f"{path}:{name}" if path else _BUILT_IN
    kwargs = {key: said.pop(key) for key in list(said) if key.startswith(f"{_FUNCTION}.reward_kwargs")}
    manager = said.pop("reward.reward_manager.name", "naive")
    if manager not in _MANAGERS:
        raise CtwaError(
            f"reward.reward_manager.name={manager} changes rewards after the function: leave it out, and make what it "
            "adds an objective (a penalty of long responses is reward_fns/soft_overlong.py:soft_overlong)"
        )
    keys = said.pop("algorithm.gdpo_reward_keys", None)
    weights = _weights(keys, said.pop("algorithm.gdpo_reward_weights", None))
    objective: dict[str, Any] = {"reward_fn": function}
    for key, value in kwargs.items():
        inner = key.removeprefix(f"{_FUNCTION}.reward_kwargs").lstrip(".")
        if not inner and not isinstance(value, Mapping | None):
            raise CtwaError(f"{key}={shown(value)} names no arguments: write {key}.NAME=VALUE")
        objective.setdefault("kwargs", {}).update({inner: value} if inner else value or {})
    if keys is None:
        made.notes.append(
            f"{function} is one objective, its score. Of a function that returns a dict, algorithm.gdpo_reward_keys="
            "[KEY,...] makes each key an objective"
        )
        return {"ctwa.objectives.score": objective}
    made.notes.append(f"the keys {', '.join(keys)} of what {function} returns are the objectives")
    # Copies, for YAML would write what is one dict as a link.
    return {
        f"ctwa.objectives.{key}": {**deepcopy(objective), "key": key, "weight": weight}
        for key, weight in weights.items()
    }


def _weights(keys: Any, weights: Any) -> dict[str, float]:
    """The weight of each reward key; none without keys."""
    if keys is None:
        if weights is not None:
            raise CtwaError(
                "algorithm.gdpo_reward_weights are the weights of algorithm.gdpo_reward_keys, and there are none: "
                "write these too, or leave the weights out"
            )
        return {}
    if (
        not isinstance(keys, list)
        or not keys
        or len({*map(str, keys)}) < len(keys)
        or not all(isinstance(key, str) and key and not {*key} & {*"./"} for key in keys)
    ):
        raise CtwaError(
            f"algorithm.gdpo_reward_keys={shown(keys)}: write a list of names, [accuracy,format], each once and "
            "without dots and slashes"
        )
    weights = [1.0] * len(keys) if weights is None else weights
    if not isinstance(weights, list) or len(weights) != len(keys):
        raise CtwaError(
            f"algorithm.gdpo_reward_weights={shown(weights)}: write one for each of the reward keys {', '.join(keys)}"
        )
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise CtwaError(f"algorithm.gdpo_reward_weights: {shown(weight)} is no weight; write a number for each key")
    return dict(zip(keys, map(float, weights), strict=True))


def _defaults(said: Mapping[str, Any], chosen: Mapping[str, str], made: Translation) -> dict[str, Any]:
    """Verl's default for each key that has another here; those that stay as they are here are told."""
    verl = dotted(yaml.safe_load((verl_files() / "_generated_ppo_trainer.yaml").read_text()))
    ours = dotted(defaults_of([f"{group}={name}" for group, name in chosen.items()]))
    of_task = dotted(yaml.safe_load((files("ctwa.config") / "task" / "custom.yaml").read_text()))
    written = {*of_task, *_WRITTEN_OUT[chosen["engine"]]}
    not_told = {*said, *_GIVEN_BY_USER, *_RENAMED, *_LEFT_OUT}
    other = {key: value for key, value in ours.items() if key in verl and key not in not_told and verl[key] != value}
    defaults = {key: verl[key] for key in other if key in written}
    if defaults:
        made.notes.append(f"verl's defaults, written out because ctwa has others: {', '.join(defaults)}")
    stay = [
        key if "${" in str(value) else f"{key}={shown(value)}"
        for key, value in other.items()
        if key not in written and not _NO_VALUE.search(f"{verl[key]}") and not _FOLLOWS.search(f"{value}")
    ]
    if stay:
        made.notes.append(f"ctwa's defaults, which stay though verl has others: {', '.join(stay)}")
    return defaults


def write(translation: Translation, out: Path) -> None:
    """Write a file of settings.

    Raises:
        CtwaError: there is a file of that name.
    """
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(translation.text())
    except FileExistsError:
        raise CtwaError(f"{out} is there already, and may have been changed: give another name, or move it") from None
