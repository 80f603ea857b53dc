"""An evaluation without a file: models on the held-out problems of a run, or of a testbed, under its objectives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctwa.errors import CtwaError
from ctwa.evaluation.config import Combination, EvalConfig, parse_config
from ctwa.instructions import prepare
from ctwa.models.conditioned import Conditioned, read_conditioned
from ctwa.models.locate import locate
from ctwa.run.documents import Document
from ctwa.run.folder import RunFolder
from ctwa.testbed.preferences import OBJECTIVES
from ctwa.testbed.prepare import RECORD
from ctwa.testbed.presets import MAX_RESPONSE_TOKENS
from ctwa.weights import shares

BASELINE = "base"
OBJECTIVES_AT = ("ctwa", "objectives")
REWARDS = {f"ctwa.{module}" for module in ("testbed.rewards", "instructions.rewards", "objectives.log_probs")}
"""The modules of reward functions that come with ctwa. Other functions in it run what their arguments name."""
ADVICE = "restore it, or write an evaluation's YAML file (docs/eval.md)"
"""What to do about a config.yaml that is not as a run left it."""


@dataclass(frozen=True)
class Choice:
    """What is chosen at an evaluation for models that take weights.

    Attributes:
        weights: of the objectives, by name: the choices.
        experts: by objective, a model that was trained on it.
        combine: how they become one.
    """

    weights: Sequence[Mapping[str, float]] = ()
    experts: Mapping[str, str] = field(default_factory=dict)
    combine: Sequence[str] = ()

    @classmethod
    def read(cls, weights: Sequence[str], experts: Mapping[str, str], combine: Sequence[str]) -> Choice:
        """From the words of the command line.

        Raises:
            CtwaError: one is not of its form, or would do nothing.
        """
        if combine and not experts:
            raise CtwaError("--combine does nothing without experts; give --expert OBJECTIVE=MODEL for each objective")
        if wrong := [each for each in combine if each not in get_args(Combination)]:
            raise CtwaError(f"--combine {wrong[0]}: write {' or '.join(get_args(Combination))}")
        return cls([_weights(each) for each in weights], experts, combine)

    @property
    def targets(self) -> list[str]:
        """What to evaluate beside the choices where nothing is named: the first expert, by its objective's name."""
        return [self.experts[name] for name in sorted(self.experts)[:1]]


def _weights(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name.strip():
            raise CtwaError(f"--weights {text}: write weights by objective, e.g. accuracy=.6,conciseness=.4")
    if len(found) < text.count(",") + 1:
        raise CtwaError(f"--weights {text}: an objective is there twice; give each one weight")
    shares(found)  # which refuses weights that say nothing
    return found


def config_of(
    targets: Sequence[str],
    *,
    task_dir: Path | None = None,
    limit: int | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    trust: bool = False,
    choice: Choice = Choice(),
) -> EvalConfig:
    """What a run's own validation measures, of the given models and, where there is one, of the model they began as.

    Args:
        targets: runs, checkpoints, models.
        task_dir: the folder of a testbed, or of `task=instructions`, to evaluate on; by default the task of the first
            target, which then is a run.
        limit: only so many prompts.
        num_samples: completions of each prompt, where not those of the run's validation.
        seed: of the completions.
        trust: run the reward functions that the run names, whoever made it.
        choice: of weights, for runs with ``ctwa.conditioning`` and for experts; without any such runs are told the
            objectives' own.

    Raises:
        CtwaError: the folder is none of a task, the first target no run, or its task is not described in full; or the
            run is somebody else's, and names code that does not come with ctwa.
    """
    base, kind, section = _of_task(task_dir) if task_dir is not None else _of_run(Path(targets[0]), trust=trust)
    if limit is not None:
        section |= {"limit": limit, "limit_seed": None} if "limit_seed" in section else {"limit": limit}
    sections: dict[str, Any] = {kind: section}
    if kind == "generation":
        section["seed"] = seed
        if num_samples is not None:
            section["num_samples"] = num_samples
    else:
        sections["reference"] = base
    models, conditioned, own = _models(targets, base)
    weights = [*choice.weights] or own
    if choice.weights and not (conditioned or choice.experts):
        raise CtwaError(
            f"--weights: none of {', '.join(targets)} is a run with ctwa.conditioning, which reads weights in its "
            "prompts; give one, or an --expert OBJECTIVE=MODEL for each objective (docs/weights.md)"
        )
    if choice.experts and not weights:
        raise CtwaError("experts are combined by weights; give some, e.g. --weights accuracy=.6,conciseness=.4")
    chosen: dict[str, Any] = {"conditioned": conditioned, "experts": dict(choice.experts), "weights": weights}
    if choice.combine:
        chosen["combine"] = [*choice.combine]
    return parse_config({"models": models, **sections, **chosen}, "the evaluation")


def _models(
    targets: Sequence[str], base: str | None
) -> tuple[dict[str, str], dict[str, dict[str, Any]], list[Mapping[str, float]]]:
    """The models by name, those whose prompts are told weights apart, and the own weights of the first of these."""
    models = {} if base is None else {BASELINE: base}
    locations = [locate(each) for each in models.values()]
    conditioned: dict[str, dict[str, Any]] = {}
    weights: list[Mapping[str, float]] = []
    for target in targets:
        location = locate(target)
        if location in locations:  # the base model itself may be among them
            continue
        locations.append(location)
        name = _unused(_name(Path(target)), [*models, *conditioned])
        if (told := conditioning_of(Path(target))) is None:
            models[name] = target
            continue
        how = {"template": told.template, "resolution": told.resolution, "objectives": sorted(told.own)}
        conditioned[name] = {"model": target, **how}
        weights = weights or [told.own]
    return models, conditioned, weights


def _home(path: Path) -> Path | None:
    """The run's folder that a folder is, or is in."""
    return next((folder for folder in (path, *path.absolute().parents) if (folder / "run.json").is_file()), None)


def conditioning_of(target: Path) -> Conditioned | None:
    """How the prompts of a run, of one of its checkpoints or of an exported model are told weights; None where not.

    Raises:
        CtwaError: what says so cannot be read.
    """
    if not target.exists():  # a name on the hub is in no folder
        return None
    if (exported := read_conditioned(target)) is not None:
        return exported
    home = _home(target)
    if home is None or not (home / "config.yaml").is_file():
        return None
    config = Document(home / "config.yaml", ADVICE)
    if config.get("ctwa.conditioning.concentration", (int, float), None) is None:
        return None
    own = {}
    for name in config.get("ctwa.objectives"):
        weight = config.get((*OBJECTIVES_AT, name, "weight"), (int, float), 1.0)
        if config.get((*OBJECTIVES_AT, name, "split"), str, "both") == "both" and weight > 0:
            own[name] = float(weight)
    how = "ctwa.conditioning"
    return Conditioned(config.get(f"{how}.template", str), config.get(f"{how}.resolution", int), own)


def _of_task(folder: Path) -> tuple[str | None, str, dict[str, Any]]:
    """The held-out prompts of a task's folder, of a testbed with its base model."""
    held_out = str(folder / "held_out.parquet")
    if (folder / RECORD).is_file():
        objectives = {name: {"reward_fn": f"ctwa.testbed.rewards:{name}"} for name in OBJECTIVES}
        section = {"data": held_out, "objectives": objectives, "max_tokens": MAX_RESPONSE_TOKENS, "batch_size": 256}
        if not (folder / "model").is_dir():
            raise CtwaError(f"{folder} has no folder model, with the testbed's base model: make the testbed anew")
        return str(folder / "model"), "generation", section
    if (folder / prepare.RECORD).is_file():
        # As the task's file has them, whose one interpolation is the budget of tokens.
        task = yaml.safe_load((files("ctwa.config") / "task" / "instructions.yaml").read_text())
        num_tokens = task["data"]["max_response_length"]
        chosen: dict[str, dict[str, Any]] = {
            name: {"reward_fn": each["reward_fn"], "kwargs": dict.fromkeys(each.get("kwargs", ()), num_tokens)}
            for name, each in task["ctwa"]["objectives"].items()
        }
        return None, "generation", {"data": held_out, "objectives": chosen, "max_tokens": num_tokens}
    raise CtwaError(
        f"{folder} is no folder of a task; give one that `ctwa testbed make` or `ctwa instructions make` made"
    )


def _refuse_foreign_code(run: RunFolder, config: Document) -> None:
    named = {config.get((*OBJECTIVES_AT, name, "reward_fn"), str) for name in config.get("ctwa.objectives")}
    code = sorted(each for each in named if each.rpartition(":")[0] not in REWARDS)
    if code and not run.is_ours():
        raise CtwaError(
            f"{run.path} was not made by you, or not on this machine, and to evaluate it is to run the code of "
            f"{', '.join(code)}, as its config.yaml says: read it, and write --trust"
        )


def _of_run(run: Path, *, trust: bool) -> tuple[str, str, dict[str, Any]]:
    """The validation of the run that a run's folder, or a checkpoint in it, belongs to."""
    home = _home(run)
    if home is None:
        raise CtwaError(
            f"{run} is no folder of a run; give one first, or --task-dir <folder of a task>, or the YAML file of an "
            "evaluation"
        )
    path = home / "config.yaml"
    if not path.is_file():
        raise CtwaError(f"{path} does not exist; give a run's folder as `ctwa train` left it, or a YAML file")
    config = Document(path, ADVICE)
    if "ctwa" not in config.content or "trl" in config.content:
        raise CtwaError(
            f"{home} is a run of another trainer, or of a loop of its own, and its config.yaml says of no task what to "
            "evaluate on: write an evaluation's YAML file with the models and the data (docs/eval.md)"
        )
    model = config.get("actor_rollout_ref.model.path", str)
    if config.get("ctwa.loss", dict, None) is not None:  # of `ctwa prefer`
        return model, "preferences", _pairs(config) | {"template_kwargs": _template_kwargs(config)}
    folder = RunFolder(home)
    if not trust:
        _refuse_foreign_code(folder, config)
    kept = folder.data / "val.parquet"  # where the run's rows were not in verl's format
    source = str(kept) if kept.is_file() else config.get("data.val_files", (str, list, dict))
    if isinstance(source, list) and len(source) == 1:
        source = source[0]
    if not isinstance(source, str):
        raise CtwaError(f"{path} validates on {source}; write an evaluation's YAML file, with one of these as data")
    own = "actor_rollout_ref.rollout.val_kwargs"
    is_sampled = config.get(f"{own}.do_sample", bool)
    most = config.get("data.val_max_samples", int, -1)
    limit = most if most > 0 else None
    is_drawn = limit is not None and config.get("data.shuffle", bool, False)
    section = {
        "data": source,
        "objectives": _objectives(config),
        "reference_length": _reference_length(config),
        "num_workers": config.get("ctwa.rewards.num_workers", (int, str)),
        "max_unscored": config.get("ctwa.rewards.max_unscored", (int, float)),
        "limit": limit,
        "limit_seed": config.get("data.seed", int, None) if is_drawn else None,
        "num_samples": config.get(f"{own}.n", int),
        "temperature": config.get(f"{own}.temperature", (int, float)) if is_sampled else 0.0,
        "top_p": config.get(f"{own}.top_p", (int, float)),
        "top_k": config.get(f"{own}.top_k", int),
        "max_tokens": config.get("actor_rollout_ref.rollout.response_length", int),
        "template_kwargs": _template_kwargs(config),
    }
    return model, "generation", section


def _objectives(config: Document) -> Any:
    """The objectives, with what a reward took from the environment, which was not written down.

    Raises:
        CtwaError: that is not there.
    """
    try:
        ours = OmegaConf.create({"ctwa": {"objectives": config.get("ctwa.objectives")}})  # one may refer to another
        return OmegaConf.to_container(ours.ctwa.objectives, resolve=True)
    except OmegaConfBaseException as error:
        why = str(error).partition("\n")[0]
        raise CtwaError(f"{config.path}: ctwa.objectives cannot be resolved ({why}): {ADVICE}") from error


def _template_kwargs(config: Document) -> dict[str, Any]:
    """What the run gives the chat template; with a template of its own in place of the tokenizer's."""
    own = config.get("actor_rollout_ref.model.custom_chat_template", str, None)
    return {**config.get("data.apply_chat_template_kwargs", dict, {}), **({"chat_template": own} if own else {})}


def _pairs(config: Document) -> dict[str, Any]:
    """The validation pairs of a run: a file of them, or the share of its data that it held out."""
    named = {name: config.get((*OBJECTIVES_AT, name)) for name in config.get("ctwa.objectives")}
    files = {name: objective.get("validation") for name, objective in named.items()}
    share = None if any(files.values()) else config.get("ctwa.validation_share", (int, float), None)
    if not share and not all(files.values()):
        without = next(name for name, file in files.items() if not file)
        raise CtwaError(
            f"{config.path} names no validation pairs of '{without}': write an evaluation's YAML file with the pairs "
            "to evaluate on (docs/eval.md)"
        )
    objectives = {}
    for name, objective in named.items():
        source = {key: value for key, value in objective.items() if key not in ("weight", "validation")}
        objectives[name] = {**source, "data": files[name] or config.get((*OBJECTIVES_AT, name, "data"), str)}
    return {
        "objectives": objectives,
        "loss": config.get("ctwa.loss"),
        "max_length": config.get("ctwa.max_length", int),
        "validation_share": share,
    }


def _reference_length(config: Document) -> dict[str, Any] | None:
    written: dict[str, Any] | None = config.get("ctwa.reference_length", dict, None)
    if written is None or config.get("ctwa.reference_length.type", str) != "running":
        return written
    return {"type": "fixed", "tokens": written.get("initial")}  # an evaluation is no sequence of batches


def _name(target: Path) -> str:
    """`runs/ctwa-s0` as ctwa-s0, its checkpoint global_step_20 as ctwa-s0@20, another folder by its own name."""
    parts = target.absolute().parts
    for index, part in enumerate(parts):
        if part == "checkpoints" and index + 1 < len(parts):
            return f"{parts[index - 1]}@{parts[index + 1].removeprefix('global_step_')}"
    return target.name or str(target)


def _unused(name: str, taken: Collection[str]) -> str:
    number, unused = 2, name
    while unused in taken:
        unused, number = f"{name}-{number}", number + 1
    return unused
