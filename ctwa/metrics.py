"""The names of metrics: what a record calls each number. They are made here and taken apart here.

A name begins with its family: `covariance/accuracy`, `objective/accuracy/mean`, `lagrangian/multiplier/accuracy`. The
families of `TRAINING` say the same whatever the method is; every other one is a method's own. docs/trace.md lists them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from ctwa.errors import CtwaError, shown

STEP_SECONDS = "time/step"
ENTROPY = "actor/entropy"
GRADIENT_NORM = "actor/grad_norm"
SKIPPED_UPDATES = "gradient/skipped"
KL = "actor/ppo_kl"
REWARD_KL, REWARD_KL_COEFFICIENT = "actor/reward_kl_penalty", "actor/reward_kl_penalty_coeff"
RESPONSE_LENGTH = "response_length/mean"
VALIDATION_LENGTH = "val/response_length"
MISSING_ROWS = ("rollout/missing_rows", "val_rollout/missing_rows")
HIDDEN_SECONDS, WAITED_SECONDS = "rewards/hidden_seconds", "rewards/waited_seconds"
LEFT_PROCESSES = "rewards/left_processes"
VALIDATION_HIDDEN_SECONDS, VALIDATION_WAITED_SECONDS = "val_rewards/hidden_seconds", "val_rewards/waited_seconds"
USABLE_GROUPS = "rollout/usable_groups"
SOLVE_RATE, NEVER_SAMPLED = "curriculum/solve_rate", "curriculum/never_sampled_frac"
NO_SIGNAL, LEFT_OUT, REFILL_ROUNDS = "rollout/no_signal_frac", "rollout/left_out_frac", "rollout/refill_rounds"
CLIP_FRACTION, CLIP_MASS, CLIP_DISTORTION = "clip/fraction", "clip/mass", "clip/distortion"
GRADIENT_COSINE = "gradient/cosine/"
SOURCE_SHARE = "curriculum/source_share/"
CONFLICT_COSINE = "conflict/cosine/"
FEASIBILITY = "ctwa/feasibility"

_BY_SOURCE = ("objective_source", "val_source", "val_source_standard_error")  # val_source/<name>/<source>
# fmt: off
TRAINING = frozenset((
    "actor", "clip", "conflict", "correlation", "covariance", "critic", "curriculum", "global_seqlen", "gradient",
    "memory", "num_turns",
    "objective", "perf", "prompt_length", "response", "response_length", "response_length_non_aborted", "rewards",
    "rollout", "rollout_corr", "time", "tool_call_counts", "training", "val", "val_rewards", "val_rollout",
    "val_shaped", "val_standard_error", "variance_proxy", "weight", *_BY_SOURCE,
))
# fmt: on
"""The families of the training and of its diagnostics, for every method."""
_OBJECTIVE_FIRST = ("objective", "preference", "val_preference")  # objective/<name>/mean


def covariance(name: str) -> str:
    """Within-prompt covariance of an objective's reward with the update."""
    return f"covariance/{name}"


def correlation(name: str) -> str:
    """Within-prompt correlation of an objective's reward with the update."""
    return f"correlation/{name}"


def weight(name: str) -> str:
    """An objective's weight in the next step."""
    return f"weight/{name}"


def of_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """The metrics that weights by objective are."""
    return {weight(name): value for name, value in weights.items()}


def gate(name: str) -> str:
    """How far the other objectives count only with this one: 1 where they do, 0 where they count without it."""
    return f"guard/gate/{name}"


def objective(name: str, key: str) -> str:
    """What was measured of an objective on the step's completions: mean, std, scored_frac, timeout_frac, ..."""
    return f"objective/{name}/{key}"


def objective_mean(name: str) -> str:
    """An objective's mean reward over the step's completions."""
    return objective(name, "mean")


def no_signal(name: str) -> str:
    """The share of a step's prompts whose completions all have the same reward of an objective."""
    return objective(name, "no_signal_frac")


def source_share(source: str) -> str:
    """The share of a step's prompts that a data source gave."""
    return f"{SOURCE_SHARE}{source}"


def validation(name: str) -> str:
    """An objective's mean reward on held-out problems."""
    return f"val/{name}"


def shaped_validation(name: str) -> str:
    """The mean of what clips, transforms, scales and gates make of an objective's held-out rewards."""
    return f"val_shaped/{name}"


def validation_error(name: str) -> str:
    """The standard error of `validation`."""
    return f"val_standard_error/{name}"


def objective_of_source(name: str, source: str) -> str:
    """`objective_mean` over the completions of one data source, where there are several."""
    return f"objective_source/{name}/{source}"


def validation_of_source(name: str, source: str) -> str:
    """`validation` on the problems of one data source, or of a validation file by its name."""
    return f"val_source/{name}/{source}"


def validation_error_of_source(name: str, source: str) -> str:
    """The standard error of `validation_of_source`."""
    return f"val_source_standard_error/{name}/{source}"


def sources_in(names: Iterable[str]) -> list[str]:
    """The data sources that some metrics tell apart, in the order they come."""
    return list(dict.fromkeys(each.key for each in map(parse, names) if each.family in _BY_SOURCE))


def left_processes(command: str) -> str:
    """How many of `LEFT_PROCESSES` are of one command."""
    return f"{LEFT_PROCESSES}/{command}"


def clip_bound(name: str) -> str:
    """The least covariance that clipping can have left an objective."""
    return f"clip/bound/{name}"


def gradient_norm(name: str) -> str:
    """The norm of an objective's gradient."""
    return f"gradient/norm/{name}"


def gradient_cosine(name: str, other: str) -> str:
    """The cosine of two objectives' gradients."""
    return f"{GRADIENT_COSINE}{name}:{other}"


def gradient_progress(name: str) -> str:
    """How far the step is to lower an objective's loss, by the gradients of its own mini-batch."""
    return f"gradient/progress/{name}"


def conflict_progress(name: str) -> str:
    """How far the step is to lower an objective's loss, by the cross-fitted Gram matrix."""
    return f"conflict/progress/{name}"


def conflict_progress_error(name: str) -> str:
    """No less than the standard error of `conflict_progress`."""
    return f"conflict/progress_error/{name}"


def conflict_norm(name: str) -> str:
    """The norm of an objective's expected gradient: cross-fitted."""
    return f"conflict/norm/{name}"


def conflict_cosine(name: str, other: str) -> str:
    """The cosine of two objectives' expected gradients: cross-fitted."""
    return f"{CONFLICT_COSINE}{name}:{other}"


def conflict_error(name: str, other: str) -> str:
    """The standard error of the inner product behind `conflict_cosine`, over the two norms."""
    return f"conflict/standard_error/{name}:{other}"


def probe_gain(name: str) -> str:
    """What a step did to an objective's expected reward."""
    return f"probe/gain/{name}"


def probe_error(name: str) -> str:
    """The standard error of `probe_gain`."""
    return f"probe/standard_error/{name}"


def ctwa(key: str, name: str) -> str:
    """What the method ctwa says of an objective: ema, deficit, log_weight, target, correlation, num_held."""
    return f"ctwa/{key}/{name}"


class Metric(NamedTuple):
    """A name taken apart."""

    family: str
    key: str  # "" where the family is all there is to say: covariance/<objective>; of what is by source, the source
    objective: str  # "" for what concerns the run


def parse(name: str) -> Metric:
    """A metric's name taken apart: `<family>/<key>`, `<family>/<key>/<objective>` or `objective/<objective>/<key>`."""
    family, _, rest = name.partition("/")
    if family in _BY_SOURCE:  # a source may have a slash, an objective has none
        first, _, key = rest.partition("/")
        return Metric(family, key, first)
    if family in _OBJECTIVE_FIRST:
        first, _, key = rest.rpartition("/")
        return Metric(family, key, first)
    if family in ("correlation", "covariance", "weight", "val", "val_shaped", "val_standard_error"):
        return Metric(family, "", rest)
    key, _, first = rest.partition("/")
    return Metric(family, key, first)


def objectives_in(names: Iterable[str]) -> list[str]:
    """The objectives that some metrics are about: those with rewards of a step or, without any, with a validation."""
    found = [parse(name) for name in names if name != VALIDATION_LENGTH]
    trained = [each.objective for each in found if each.family == "objective" and each.key == "mean"]
    validated = [each.objective for each in found if each.family == "val"]
    return list(dict.fromkeys(trained or validated))


def mean_of_share(name: str) -> str:
    """Of `objective/<objective>/scored_frac` the `objective_mean`; "" of any other metric."""
    is_share = name.startswith("objective/") and name.endswith("/scored_frac")
    return objective_mean(parse(name).objective) if is_share else ""


def of_methods(names: Iterable[str], shown: Container[str] = ()) -> list[str]:
    """The metrics that are methods' own, whichever the methods are, without those that are shown already."""
    return [name for name in names if parse(name).family not in TRAINING and parse(name).key and name not in shown]


def check_name(name: object) -> None:
    """Refuse the name of an objective that no metric can hold.

    Raises:
        CtwaError: it is no text, is empty, has a '/', begins or ends with a space, has characters that cannot be
            printed, or makes the name of another metric.
    """
    if not isinstance(name, str):
        raise CtwaError(f"objective name {shown(name)} is of type {type(name).__name__}; write a text")
    if not name or name != name.strip():
        raise CtwaError(f"objective name {name!r} is empty or begins or ends with a space; write a plain name")
    if "/" in name or not name.isprintable():
        raise CtwaError(f"objective name {name!r} has a '/' or a control character; metric names cannot hold it")
    if validation(name) == VALIDATION_LENGTH:
        raise CtwaError(f"objective name {name!r} is taken: {VALIDATION_LENGTH} is the length of responses")
