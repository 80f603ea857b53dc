import json
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.report.compare import Comparison, compare_groups, comparison_text, curves_text
from ctwa.report.groups import group_runs
from ctwa.report.trace import read_runs
from ctwa.run import ObjectiveInfo
from tests.run.runs import info, step_metrics


@pytest.fixture
def make_series(make_run):
    """Runs of a method, one a seed, from {seed: {step: (accuracy, clarity)}}; each step takes 10 s unless said."""

    def make(method, seeds, seconds=10.0):
        paths = []
        for seed, steps in seeds.items():
            metrics = {
                step: ({"time/step": seconds} if step else {}) | {"val/accuracy": accuracy, "val/clarity": clarity}
                for step, (accuracy, clarity) in steps.items()
            }
            run = make_run(f"{method}-s{seed}", metrics, info(method=method, seed=seed))
            run.config.write_text(f"method: {method}\nseed: {seed}\n")
            paths.append(run.path)
        return paths

    return make


def compare_methods(paths, **limits) -> Comparison:
    return compare_groups(group_runs(read_runs(paths)), **limits)


def two_methods(make_series):
    linear = {0: {0: (0.0, 0.0), 1: (0.5, 0.5)}, 1: {0: (0.0, 0.0), 1: (0.25, 0.75)}}
    ctwa = {0: {0: (0.0, 0.0), 1: (0.75, 0.5), 2: (1.0, 1.0)}, 1: {0: (0.0, 0.0), 1: (0.75, 0.5)}}
    return [*make_series("linear", linear), *make_series("ctwa", ctwa, seconds=5.0)]


def test_a_run_that_ends_without_a_number_has_no_result(make_series):
    nan = float("nan")
    paths = [
        *make_series("linear", {0: {1: (0.5, 0.5), 2: (0.5, nan)}}),
        *make_series("ctwa", {0: {1: (nan, 0.5), 2: (0.75, 0.5)}}),
    ]
    comparison = compare_methods(paths)
    assert comparison.at == "step 2"
    assert [set(method.results) for method in comparison.methods] == [{"accuracy"}, {"accuracy", "clarity"}]
    assert comparison.methods[0].hypervolume is None
    assert "nan" not in comparison_text(comparison).lower()


def test_methods_at_the_last_step_of_all_by_hand(make_series):
    comparison = compare_methods(two_methods(make_series))
    linear, ctwa = comparison.methods
    assert comparison.at == "step 1"
    assert comparison.baseline == "linear"
    # Two values: twelve of their standard errors to each side, which are half of what is between them.
    twelve = 12.706204736
    assert linear.results["accuracy"] == pytest.approx((0.375, 0.375 - twelve / 8, 0.375 + twelve / 8, 2))
    assert ctwa.results["accuracy"] == (0.75, 0.75, 0.75, 2)
    # Paired by seed: 0.75 - 0.5 and 0.75 - 0.25; 0.5 - 0.5 and 0.5 - 0.75.
    assert ctwa.gains["accuracy"] == pytest.approx((0.375, 0.375 - twelve / 8, 0.375 + twelve / 8, 2))
    assert ctwa.gains["clarity"] == pytest.approx((-0.125, -0.125 - twelve / 8, -0.125 + twelve / 8, 2))
    assert linear.gains == {}
    # The area under one point is its product: 0.25 and 0.1875; 0.375 twice.
    assert linear.hypervolume == pytest.approx((0.21875, 0.21875 - twelve / 32, 0.21875 + twelve / 32, 2))
    assert ctwa.hypervolume == (0.375, 0.375, 0.375, 2)
    assert (linear.on_front, ctwa.on_front) == (True, True)


def test_an_earlier_step(make_series):
    comparison = compare_methods(two_methods(make_series), at_steps=0)
    assert comparison.at == "step 0"
    assert [method.results["accuracy"].mean for method in comparison.methods] == [0.0, 0.0]


def test_equal_time_takes_each_run_as_far_as_it_came(make_series):
    paths = two_methods(make_series)
    linear, ctwa = compare_methods(paths, at_seconds=10).methods
    assert linear.steps == (1, 1)
    assert ctwa.steps == (2, 1)
    assert ctwa.seconds == (10.0, 5.0)
    assert ctwa.results["accuracy"].mean == 0.875
    assert [method.steps for method in compare_methods(paths, at_seconds=9.9).methods] == [(0, 0), (1, 1)]


def test_single_runs_differ_without_an_interval(make_series):
    paths = [*make_series("linear", {0: {0: (0.5, 0.5)}}), *make_series("ctwa", {7: {0: (0.25, 0.75)}})]
    gains = compare_methods(paths).methods[1].gains
    assert gains == {"accuracy": (-0.25, None, None, 1), "clarity": (0.25, None, None, 1)}


def with_errors(make_run, method, seed, value, error):
    run = make_run(
        f"{method}-s{seed}",
        {1: {"val/a": value, "val_standard_error/a": error}},
        info(("a",), method=method, seed=seed),
    )
    run.config.write_text(f"method: {method}\n")
    return run.path


def test_a_single_run_has_an_interval_over_its_problems(make_run):
    paths = [with_errors(make_run, "linear", 0, 0.5, 0.03), with_errors(make_run, "ctwa", 0, 0.59, 0.04)]
    linear, ctwa = compare_methods(paths).methods
    assert linear.results["a"] == pytest.approx((0.5, 0.5 - 1.96 * 0.03, 0.5 + 1.96 * 0.03, 1))
    # The standard error of the difference is that of a triangle of 3 and 4.
    assert ctwa.gains["a"] == pytest.approx((0.09, 0.09 - 1.96 * 0.05, 0.09 + 1.96 * 0.05, 1))
    assert ctwa.noise == pytest.approx({"a": 1.96 * 0.05})
    assert ctwa.is_beyond_noise("a") is False


@pytest.mark.parametrize(("values", "beyond"), [((0.7, 0.7), True), ((0.55, 0.551), False), ((0.7, 0.8), False)])
def test_seeds_that_agree_are_beyond_noise_only_where_the_problems_say_so_too(make_run, values, beyond):
    paths = [with_errors(make_run, "linear", seed, 0.5, 0.03) for seed in (0, 1)]
    paths += [with_errors(make_run, "ctwa", seed, value, 0.04) for seed, value in enumerate(values)]
    assert compare_methods(paths).methods[1].is_beyond_noise("a") is beyond


def test_a_penalty_that_ends_at_zero_leaves_the_hypervolume_of_the_rest(make_series):
    paths = [
        *make_series("linear", {0: {0: (0.2, -0.5), 1: (0.5, 0.0)}}),
        *make_series("ctwa", {0: {0: (0.2, -0.5), 1: (0.6, 0.0)}}),
    ]
    comparison = compare_methods(paths)
    assert comparison.reference == pytest.approx({"accuracy": 0.0, "clarity": -0.55})
    assert [method.hypervolume.mean for method in comparison.methods] == pytest.approx([0.5 * 0.55, 0.6 * 0.55])


def test_seeds_of_one_method_alone_pair_with_nothing(make_series):
    linear = {0: {0: (0.5, 0.5)}, 1: {0: (0.5, 0.5)}}
    paths = [*make_series("linear", linear), *make_series("ctwa", {1: {0: (0.75, 0.5)}, 2: {0: (1.0, 1.0)}})]
    assert compare_methods(paths).methods[1].gains["accuracy"] == (0.25, None, None, 1)


def test_a_dominated_method_is_not_on_the_front(make_series):
    paths = [*make_series("linear", {0: {0: (0.5, 0.5)}}), *make_series("ctwa", {0: {0: (0.5, 0.75)}})]
    assert [method.on_front for method in compare_methods(paths).methods] == [False, True]


def test_an_objective_that_a_method_does_not_have(make_run):
    one = make_run("one", {1: {"val/a": 0.5}}, info(("a",), method="linear", seed=0))
    two = make_run("two", {1: {"val/a": 0.5, "val/b": 0.25}}, info(("a", "b"), seed=0))
    comparison = compare_methods([one.path, two.path])
    assert "b" not in comparison.methods[0].results
    assert (comparison.methods[0].hypervolume, comparison.methods[0].on_front) == (None, None)
    assert ["b", "linear", "-", "-", "-"] in [line.split() for line in comparison_text(comparison).splitlines()]


def test_an_objective_without_a_result_is_left_out_of_the_comparison(make_run):
    runs = [make_run(name, {1: {"val/accuracy": 0.5}}, info(method=name, seed=0)).path for name in ("one", "two")]
    comparison = compare_methods(runs)
    assert [list(method.results) for method in comparison.methods] == [["accuracy"], ["accuracy"]]


def test_the_text_has_every_number(make_series):
    lines = comparison_text(compare_methods(two_methods(make_series))).splitlines()
    assert lines[0] == "mean reward on held-out problems at step 1, with 95% intervals"
    assert lines[3].split() == ["ctwa", "0.750", "[0.750,", "0.750]", "+0.375", "[-1.213,", "+1.963]", "2"]
    assert lines[9].split() == ["ctwa", "2", "0,", "1", "1", "0:00:05", "0.375", "[0.375,", "0.375]", "yes"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"at_steps": 1, "at_seconds": 1.0}, "are both given"),
        ({"at_steps": -1}, "no step in common"),
        ({"at_seconds": 1.0}, "has no time/step"),
    ],
)
def test_what_cannot_be_compared_says_why(make_series, limits, message):
    paths = make_series("linear", {0: {0: (0.5, 0.5)}})
    with pytest.raises(CtwaError, match=message):
        compare_methods(paths, **limits)


def test_runs_with_and_without_validations_are_not_compared(make_series, make_run):
    training = make_run("t", {1: {"objective/accuracy/mean": 0.5}}, info(seed=3))
    with pytest.raises(CtwaError, match="t has no results on held-out problems"):
        compare_methods([*make_series("linear", {0: {0: (0.5, 0.5)}}), training.path])


def test_the_covariance_rows_say_how_often_it_was_below_its_target(make_run):
    steps = {step: step_metrics(accuracy=value) for step, value in enumerate([0.5, 2.0, 0.9, 1.5], start=1)}
    aiming = make_run("aiming", steps, info(("accuracy",))).path
    plain = make_run("plain", steps, info(objectives={"accuracy": ObjectiveInfo(weight=1.0)})).path
    lines = curves_text(read_runs([aiming, plain])).splitlines()
    assert lines[1].split() == [
        "accuracy",
        "aiming",
        "0.500",
        "2.000",
        "2",
        "1.500",
        "+1.000",
        "-1.100",
        "3",
        "▁▁▁███▃▃▃▃▆▆",
    ]
    # The covariance is a tenth of the mean.
    assert [line.split() for line in lines[5:]] == [
        ["accuracy", "aiming", "+0.122", "0.100", "50%", "0.500", "0.500"],
        ["plain", "+0.122", "-", "-", "0.500", "0.500"],
    ]


def test_the_summary_of_several_runs_is_their_comparison_and_can_be_drawn(make_series, make_run, tmp_path):
    name = "$x_1$ <b>"
    one = make_run("one", {1: step_metrics(**{name: 0.5})}, info((name,), seed=0, method="a_$b$")).path
    two = make_run("two", {1: {f"objective/{name}/mean": 0.25}}, info((name,), seed=0)).path
    runs, picture = [str(one), str(two)], tmp_path / "deep" / "runs.svg"
    shown = CliRunner().invoke(app, ["summary", *runs, "--figure", str(picture)], catch_exceptions=False).output
    assert CliRunner().invoke(app, ["compare", *runs], catch_exceptions=False).output in shown
    texts = [each.text for each in ElementTree.parse(picture).iter() if each.tag.endswith("text")]
    assert {f"{name}, training problems", f"{name}: weight", "a_$b$", "ctwa", "target 0.1"} <= set(texts)
    with pytest.raises(CtwaError, match=r"end it in .pdf, .svg, .png"):
        CliRunner().invoke(app, ["summary", *runs, "--figure", "runs.doc"], catch_exceptions=False)


def test_the_command_writes_json(make_series, tmp_path):
    out = tmp_path / "deep" / "comparison.json"
    result = CliRunner().invoke(
        app, ["compare", *map(str, two_methods(make_series)), "--json", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "gain over linear" in result.output
    found = json.loads(out.read_text())
    assert (found["schema"], found["baseline"], found["at"]) == (2, "linear", "step 1")
    assert found["methods"][1]["gains"]["accuracy"]["mean"] == 0.375
    assert found["methods"][1]["gains"]["accuracy"].keys() == {"mean", "low", "high", "num"}
    assert found["methods"][1]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            {"one": [0, 10, 20], "two": [0, 10, 20], "odd": [5, 15, 25, 35, 45]},
            "the run odd-s0 has 5, 15, 25, ..., 45, the others have 0, 10, 20; leave out what does not fit",
        ),
        ({"one": [0, 10], "two": [1]}, "the run one-s0 has 0, 10, the run two-s0 has 1; leave out"),
        ({"one": [1], "two": [2], "three": [3]}, "the run one-s0 has 1, the run two-s0 has 2, the run three-s0 has 3;"),
    ],
)
def test_the_run_that_blocks_a_comparison_is_named(make_series, steps, message):
    paths = [make_series(name, {0: dict.fromkeys(own, (0.5, 0.5))})[0] for name, own in steps.items()]
    with pytest.raises(CtwaError) as error:
        compare_methods(paths)

    assert f"no step in common with a result of every objective: {message}" in str(error.value)


def test_a_run_whose_objectives_have_no_step_in_common_is_named(make_run):
    paths = [
        make_run("good", {1: {"val/accuracy": 0.5, "val/clarity": 0.5}}, info(seed=0)).path,
        make_run("torn", {1: {"val/accuracy": 0.5}, 2: {"val/clarity": 0.5}}, info(seed=1)).path,
    ]
    with pytest.raises(CtwaError, match=r"the run torn has none, the other has 1; leave out"):
        compare_methods(paths)


@pytest.mark.parametrize("beside", [{}, {0: {"val/accuracy": 0.5}}])
def test_a_run_that_has_measured_nothing_is_named_with_what_it_ended_by(make_run, beside):
    """Beside another it was told to be compared with runs like it, and alone that none had any."""
    failed = make_run("failed", {}, info(seed=0))
    record = {"schema": 2, "time": 1.0, "step": 0, "kind": "error", "text": "failed before its first step: why"}
    failed.events.write_text(json.dumps(record) + "\n")
    others = [make_run("good", beside, info(seed=1)).path] if beside else []
    with pytest.raises(CtwaError, match="failed has no result of any objective: it failed before its first step: why"):
        compare_methods([*others, failed.path])
