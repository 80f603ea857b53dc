"""The rules on what the updates do: to the objectives, to the policy, and to the completions that are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ctwa import metrics as key_of
from ctwa.run.rules import Finding, Means, Rule, Validations, Watched
from ctwa.run.trace import Record

# What is not finite without an update having gone wrong: a covariance where no prompt group is usable, for one.
_UPDATE = ("actor/", key_of.gradient_norm(""), key_of.weight(""), key_of.ctwa("log_weight", ""))


def _scored(name: str) -> str:
    return key_of.objective(name, "scored_frac")


def _std(name: str) -> str:
    return key_of.objective(name, "std")


def _drop(watched: Watched, record: Record) -> Iterator[Finding]:
    """On held-out problems where an objective's validations go on; else on the average over training problems."""
    metrics, step = record["metrics"], record["step"]
    for name, validation, error, mean, spread in watched.keyed(
        key_of.validation, key_of.validation_error, key_of.objective_mean, _std
    ):
        watched.spread[name] = metrics.get(spread) or watched.spread.get(name, 0.0)
        validations = watched.validations.setdefault(name, Validations())
        found: dict[str, Finding | None] = {}
        if (value := metrics.get(validation)) is not None:
            validations.add(step)
            found["held-out"] = _fall_held_out(watched, name, value, metrics.get(error))
        if (value := metrics.get(mean)) is not None:
            found["training"] = _fall_in_training(watched, name, value)
        source = "held-out" if validations.go_on(step) or name not in watched.training else "training"
        finding = found.get(source)
        if finding and (finding.wrong or name in watched.tracked):
            yield finding


def _fall_held_out(watched: Watched, name: str, value: float, error: float | None) -> Finding:
    means = watched.held_out.setdefault(name, Means())
    means.scatter.add(value)
    means.add(value, error or 0.0)
    noise = means.scatter.noise() if error is None else 2 * means.error_between(error, means.best_error)
    wrong = means.best - value > max(watched.least_fall(name, means, means.best), noise)
    return Finding(name, wrong, (value, means.best, "held-out"))


def _fall_in_training(watched: Watched, name: str, value: float) -> Finding | None:
    means = watched.training.setdefault(name, Means())
    means.scatter.add(value)
    average = watched.average(name, value)
    if average is None:
        return None
    means.add(average)
    noise = means.scatter.noise(watched.limits.average_steps)
    wrong = means.best - average > max(watched.least_fall(name, means, means.best), noise)
    return Finding(name, wrong, (average, means.best, "training"))


def _negative_covariance(watched: Watched, record: Record) -> Iterator[Finding]:
    metrics = record["metrics"]
    for name, key in watched.keyed(key_of.covariance):
        value = metrics.get(key)
        if value is not None and (value < 0 or name in watched.tracked):
            yield Finding(name, value < 0, (value,))


def _infeasible(watched: Watched, record: Record) -> Iterator[Finding]:
    value = record["metrics"].get(key_of.FEASIBILITY)
    if value is not None and (value > 1 or None in watched.tracked):
        yield Finding(None, value > 1, (value,))


def _clipping(watched: Watched, record: Record) -> Iterator[Finding]:
    """What clipping can have taken is more than the covariance, so that its sign is no longer the update's own.

    The bound is what Cauchy-Schwarz leaves of the unclipped covariance; below 0 the distortion is above its limit. Of
    a covariance that is negative anyway it says so only where the distortion is larger than that.
    """
    metrics = record["metrics"]
    for name, covariance_key, bound_key in watched.keyed(key_of.covariance, key_of.clip_bound):
        bound = metrics.get(bound_key)
        if bound is None or (bound >= 0 and name not in watched.tracked):
            continue
        covariance = metrics.get(covariance_key)
        if covariance is not None:
            yield Finding(name, bound < 0 and covariance - bound > abs(covariance), (covariance, bound))


def _unscored(watched: Watched, record: Record) -> Iterator[Finding]:
    metrics, least = record["metrics"], 1 - watched.limits.unscored - 1e-9
    for name, key in watched.keyed(_scored):
        scored = metrics.get(key)
        if scored is not None and scored < least:
            yield Finding(name, True, (f"{1 - scored:.0%}",))
        elif scored is not None and name in watched.tracked:
            yield Finding(name, False)


def _lost_completions(watched: Watched, record: Record) -> Iterator[Finding]:
    """Of a step, or of a validation."""
    metrics = record["metrics"]
    counted = [value for key in key_of.MISSING_ROWS if (value := metrics.get(key)) is not None]
    if any(counted) or (counted and None in watched.tracked):
        lost = round(sum(counted))
        yield Finding(None, lost > 0, (f"{lost} completions were" if lost > 1 else "1 completion was",))


def _left_processes(watched: Watched, record: Record) -> Iterator[Finding]:
    """More than at first: helpers that a function keeps on purpose are there from then on."""
    metrics = record["metrics"]
    left = metrics.get(key_of.LEFT_PROCESSES)
    if left is None:
        return
    fewest = watched.fewest[key_of.LEFT_PROCESSES] = min(watched.fewest.get(key_of.LEFT_PROCESSES, left), left)
    wrong = left - fewest > watched.limits.left_processes
    if wrong or None in watched.tracked:
        of_all = key_of.left_processes("")
        commands = {key.removeprefix(of_all): num for key, num in metrics.items() if key.startswith(of_all)}
        yield Finding(None, wrong, (f"{left:.0f}", ", ".join(f"{num:.0f} {name}" for name, num in commands.items())))


def _collapse(key: str) -> Callable[[Watched, Record], Iterator[Finding]]:
    def look(watched: Watched, record: Record) -> Iterator[Finding]:
        value = record["metrics"].get(key)
        if value is None:
            return
        start = watched.of_the_first_steps(key, value)
        if start is None:
            return
        wrong = start > 0 and value < watched.limits.collapse * start
        if wrong or None in watched.tracked:
            yield Finding(None, wrong, (value, start))

    return look


def _non_finite(watched: Watched, record: Record) -> Iterator[Finding]:
    names = [name for name in record.get("non_finite", ()) if name.startswith(_UPDATE)]
    if names or None in watched.tracked:
        yield Finding(None, bool(names), (", ".join(names[:3]) + (" and others" if len(names) > 3 else ""),))


def _no_update(watched: Watched, record: Record) -> Iterator[Finding]:
    """Verl and the gradient methods leave out an update whose gradient is not finite, and count it as this."""
    skipped = record["metrics"].get(key_of.SKIPPED_UPDATES) or 0
    wrong = skipped > 0 or key_of.GRADIENT_NORM in record.get("non_finite", ())
    if wrong or None in watched.tracked:
        yield Finding(None, wrong)


TRAINING_RULES = (
    Rule(
        "drop",
        lambda limits: limits.drop_steps,
        _drop,
        "{name} has been well below its best for {steps}: {0} after {1} on {2} problems.",
        "Raise its weight, or give the objectives that rose meanwhile less.",
        "Raise its weight or its target, or give the objectives that rose meanwhile less weight.",
        "Raise its weight, give the objectives that rose meanwhile less, or train with method=ctwa, which raises the"
        " weight by itself: `{command}` prints targets.",
        "It has no weight, and is only watched: give the objectives that rose meanwhile less, or let it be trained on"
        " (split: both, and a weight).",
    ),
    Rule(
        "negative-covariance",
        lambda limits: limits.negative_covariance_steps,
        _negative_covariance,
        "The updates have worked against {name} for {steps}: its covariance is {0}.",
        "Give it more weight, or a covariance target (method=ctwa): `{command}` prints one.",
        "Give it a larger target, or more weight.",
        often=True,
    ),
    Rule(
        "infeasible-targets",
        lambda limits: limits.infeasible_steps,
        _infeasible,
        "The covariance targets cannot be met together, for {steps} now: feasibility is {0}, above 1.",
        "Lower the targets, first those of the objectives that conflict with the others.",
    ),
    Rule(
        "clipping",
        lambda limits: limits.clipping_steps,
        _clipping,
        "Clipping may have taken all of what the updates did for {name}, for {steps}: its covariance is {0}, and no"
        " more than {1} of it is certain.",
        "Lower the learning rate, make fewer updates on a batch, or widen the clip range.",
        often=True,
    ),
    Rule(
        "unscored",
        lambda _: 1,
        _unscored,
        "{0} of the completions could not be scored for {name}.",
        "Read the failures in engine.log and try the reward function by itself with ctwa check-reward.",
    ),
    Rule(
        "lost-completions",
        lambda _: 1,
        _lost_completions,
        "{0} lost, the rollout having failed: the step was made from the others.",
        "Read the failures in engine.log; where more than ctwa.rollout.max_missing are lost, the run stops.",
    ),
    Rule(
        "left-processes",
        lambda _: 1,
        _left_processes,
        "{0} processes live that reward functions have started and let go (most of them: {1}).",
        "Let the function end what it starts: subprocess.run with a timeout does, and kill followed by wait. They take"
        " memory until the run ends.",
    ),
    Rule(
        "entropy-collapse",
        lambda limits: limits.collapse_steps,
        _collapse(key_of.ENTROPY),
        "The policy's entropy has collapsed to {0}, from {1} in the first steps.",
        "Lower the learning rate, raise the sampling temperature, or add an entropy or KL term.",
    ),
    Rule(
        "length-collapse",
        lambda limits: limits.collapse_steps,
        _collapse(key_of.RESPONSE_LENGTH),
        "The responses have collapsed to {0} tokens, from {1} in the first steps.",
        "Look at the samples, and give objectives that reward brevity less weight or a floor.",
    ),
    Rule(
        "non-finite",
        lambda _: 1,
        _non_finite,
        "The update was not finite: {0}.",
        "Lower the learning rate, clip the gradient more tightly, and continue from the last checkpoint.",
    ),
    Rule(
        "no-update",
        lambda limits: limits.no_update_steps,
        _no_update,
        "Updates have been left out for {steps}: their gradients were not finite.",
        "Look which reward, weight or log-probability is not finite in the trace, lower the learning rate, and continue"
        " from a checkpoint before that.",
    ),
)
