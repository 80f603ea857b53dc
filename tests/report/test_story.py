"""What is said of runs in words, from recorded runs."""

import pytest

from ctwa.report.compare import compare_groups
from ctwa.report.groups import group_runs
from ctwa.report.story import story_text, tell
from ctwa.report.targets import FEWEST_STEPS
from ctwa.report.trace import read_runs
from ctwa.run import ObjectiveInfo
from ctwa.run.alarms import AlarmLimits
from tests.run.runs import info

LIMITS = AlarmLimits(drop_steps=1)


@pytest.fixture
def make(make_run):
    """A run of a, b with the given held-out results of steps 0, 10, ..., a standard error of 0.01, weights of a."""

    def make_it(method, a, b, *, target=None, weights=None, gates=None, covariance=0.05, **changes):
        steps = {}
        for index, (value_a, value_b) in enumerate(zip(a, b, strict=True)):
            steps[10 * index] = {"val/a": value_a, "val/b": value_b}
            steps[10 * index] |= {"val_standard_error/a": 0.01, "val_standard_error/b": 0.01}
            if weights is not None:
                steps[10 * index] |= {"weight/a": weights[index], "weight/b": 0.5}
            if index and gates is not None:
                steps[10 * index] |= {"guard/gate/a": gates[index - 1], "guard/gate/b": 1.0}
            if index and covariance is not None:
                steps[10 * index] |= {"covariance/a": covariance * index, "covariance/b": 0.3}
        objectives = {"a": ObjectiveInfo(weight=0.5, target=target), "b": ObjectiveInfo(weight=0.5, target=target)}
        return make_run(method, steps, info(method=method, seed=0, objectives=objectives, alarms=LIMITS, **changes))

    return make_it


def told(*runs):
    groups = group_runs(read_runs([run.path for run in runs]))
    return tell(groups, compare_groups(groups) if len(groups) > 1 else None)


@pytest.mark.parametrize(
    ("a", "b", "headline"),
    [
        ((0.5, 0.3), (0.5, 0.7), "a lost 0.200 (alarm drop since step 10); b gained 0.200."),
        # Verdict and alarm of one curve are joined, whichever way they point.
        (
            (0.5, 0.4, 0.5),
            (0.5, 0.5, 0.5),
            "a dipped by 0.100 at step 10 and recovered (alarm drop at step 10); b kept level.",
        ),
        ((0.5, 0.7, 0.5), (0.5, 0.6, 0.7), "a kept level (alarm drop since step 20); b gained 0.200."),
        ((0.5, 0.5), (0.5, 0.51), "a and b kept level."),
        ((0.5, float("nan")), (0.5, 0.5), "a is unknown (no number since step 10); b kept level."),
        ((0.5, float("nan")), (0.5, float("nan")), "a and b are unknown (no number since step 10)."),
    ],
)
def test_one_sentence_joins_verdicts_and_alarms(make, a, b, headline):
    assert told(make("linear", a, b)).headline == headline


def test_two_methods_in_one_sentence(make):
    linear = make("linear", (0.5, 0.3), (0.5, 0.7))
    ctwa = make("ctwa", (0.5, 0.4), (0.5, 0.7))
    assert told(linear, ctwa).headline == (
        "a lost 0.200 with linear (alarm drop since step 10) and 0.100 with ctwa (alarm drop since step 10); b gained"
        " with both; ctwa is 0.100 above linear in a, more than noise."
    )
    near = make("near", (0.5, 0.31), (0.5, 0.69))
    assert told(linear, near).headline.endswith(
        "all differences between the methods are within the noise of one seed: more seeds would tell."
    )


def test_what_became_of_each_objective_has_its_size_noise_and_distance_to_the_baseline(make):
    story = told(make("linear", (0.5, 0.3), (0.5, 0.51)), make("ctwa", (0.5, 0.4), (0.5, 0.51)))
    assert story.objectives == (
        ("a", "linear", "lost 0.200, more than noise (0.028); alarm drop since step 10"),
        (
            "a",
            "ctwa",
            "lost 0.100, more than noise (0.028); 0.100 above linear, more than noise; alarm drop since step 10",
        ),
        ("b", "linear", "kept level (+0.010 is within noise, 0.028)"),
        ("b", "ctwa", "kept level (+0.010 is within noise, 0.028); as with linear"),
    )


def test_what_the_method_did_joins_the_weight_to_the_covariance_that_was_below_its_target(make):
    story = told(make("ctwa", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), target=0.1, weights=(0.5, 0.55, 0.6)))
    assert story.methods == (
        (
            "ctwa",
            "raised the weight of a from 0.500 to 0.600"
            " (its covariance was below its target of 0.100 in 50% of the steps)",
        ),
        ("ctwa", "kept the weight of b (its covariance was below its target of 0.100 at no step)"),
    )
    fixed = told(make("linear", (0.5, 0.5), (0.5, 0.5), weights=(0.5, 0.5)))
    assert fixed.methods == (
        ("linear", "kept the weights of a (mean covariance +0.050) and b (mean covariance +0.300)"),
    )


def test_an_objective_without_validations_is_told_of_on_training_problems(make_run):
    steps = {step: {"objective/a/mean": 0.9 - 0.01 * step, "objective/b/mean": 0.5} for step in range(1, 51)}
    for step in range(10, 51, 10):
        steps[step] |= {"val/b": 0.5, "val_standard_error/b": 0.01}
    objectives = {"a": ObjectiveInfo(weight=0.5), "b": ObjectiveInfo(weight=0.5)}
    story = told(make_run("run", steps, info(seed=0, objectives=objectives)))
    assert story.headline.startswith("a lost 0.450 on training problems (alarm drop since step")
    assert story.headline.endswith("; b kept level.")


@pytest.mark.parametrize(
    ("weights", "told_of_a"),
    [
        ((0.33, 0.93, 0.33), "moved the weight of a from 0.330 up to 0.930 and back"),
        ((0.33, 0.1, 0.33), "moved the weight of a from 0.330 down to 0.100 and back"),
        ((0.33, 0.93, 0.36), "raised the weight of a from 0.330 to 0.360, on the way up to 0.930"),
        ((0.33, 0.4, 0.36), "raised the weight of a from 0.330 to 0.360, on the way up to 0.400"),
        ((0.5, 0.3, 0.2), "lowered the weight of a from 0.500 to 0.200"),
    ],
)
def test_a_weight_that_came_back_has_not_stood_still(make, weights, told_of_a):
    story = told(make("ctwa", (0.5,) * 3, (0.5,) * 3, weights=weights))
    assert story.methods[0][1].startswith(f"{told_of_a} (mean covariance")


def test_what_the_method_did_has_its_gates(make):
    story = told(make("guard", (0.5, 0.6, 0.7), (0.5, 0.5, 0.5), gates=(0.5, 0.0)))
    assert story.methods[-1] == ("guard", "opened, on average, the gate of a by 75% and b by 0%")


def test_the_three_commands_fit_the_runs(make):
    fell = (0.5, *[0.3] * FEWEST_STEPS)
    linear, ctwa = make("linear", fell, fell[::-1]), make("ctwa", (0.5, 0.4), (0.5, 0.7), target=0.1)
    commands = [command for command, _ in told(linear, ctwa).commands]
    assert commands[:2] == [
        f"ctwa report {linear.path} {ctwa.path} --out {linear.path.parent}/report.html",
        f"ctwa suggest-targets {linear.path}",
    ]
    assert len(commands) == 3
    assert not any(command.startswith("ctwa eval") for command in commands)  # nothing was saved
    short = make("short", fell[:-1], fell[:-1])  # a step less than targets take
    assert [command.split()[1] for command, _ in told(short).commands] == ["report", "methods", "compare"]
    (ctwa.checkpoints / "global_step_10").mkdir()
    assert [command for command, _ in told(ctwa).commands] == [
        f"ctwa report {ctwa.path}",
        "ctwa methods",
        f"ctwa eval {ctwa.path}",
    ]


def test_runs_may_be_given_by_their_whole_paths_and_from_here(make, monkeypatch):
    linear, ctwa = make("linear", (0.5, 0.3), (0.5, 0.7)), make("ctwa", (0.5, 0.4), (0.5, 0.7))
    monkeypatch.chdir(ctwa.path.parent)
    groups = group_runs(read_runs([linear.path, "ctwa"]))
    assert tell(groups).commands[0][0] == f"ctwa report {linear.path} ctwa --out {linear.path.parent}/report.html"


def test_the_text_fits_a_terminal_and_moves_no_cursor(make):
    text = story_text(told(make("evil\x1b[2J", (0.5, 0.3), (0.5, 0.7))))
    assert "\x1b" not in text
    assert text.splitlines()[:5] == [
        "a lost 0.200 (alarm drop since step 10); b gained 0.200.",
        "",
        "What happened:",
        "  a  lost 0.200, more than noise (0.028); alarm drop since step 10",
        "  b  gained 0.200, more than noise (0.028)",
    ]
