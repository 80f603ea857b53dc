import pytest

from ctwa.report.groups import group_runs, objectives_of
from ctwa.report.trace import read_runs
from tests.run.runs import info, step_metrics

STEPS = {1: step_metrics(accuracy=0.5, clarity=0.5)}


@pytest.fixture
def groups(make_run):
    """The groups of runs, given as name, changes of the information, text of the configuration."""

    def find(*runs):
        made = []
        for name, changes, config in runs:
            run = make_run(name, STEPS, info(**changes))
            run.config.write_text(config.format(name=name))
            made.append(run.path)
        return [(group.label, [run.label for run in group.runs]) for group in group_runs(read_runs(made))]

    return find


CONFIG = (
    "actor:\n  data_loader_seed: 42\n  lr: 0.1\ntrainer:\n  default_local_dir: /runs/{name}\nctwa:\n  run: {name}\n"
)


def test_runs_that_differ_in_their_seed_alone_are_one_group(groups):
    other_seed = CONFIG.replace("42", "43")
    found = groups(
        ("a", {"seed": 0}, CONFIG), ("l", {"seed": 0, "method": "linear"}, CONFIG), ("b", {"seed": 1}, other_seed)
    )
    assert found == [("ctwa", ["a", "b"]), ("linear", ["l"])]


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("  save_freq: 50\n", "  save_freq: -1\n"),
        ("  logger:\n  - tensorboard\n", "  logger:\n  - tensorboard\n  - wandb\n"),
        ("  logger:\n    - tensorboard\n", "  logger: [wandb]\n"),
        ("  max_actor_ckpt_to_keep: 1\n", "  max_actor_ckpt_to_keep: null\n"),
    ],
)
def test_what_a_run_tells_and_keeps_makes_no_other_group(groups, setting, other):
    first, second = (CONFIG.replace("trainer:\n", "trainer:\n" + each) for each in (setting, other))
    assert groups(("a", {"seed": 0}, first), ("b", {"seed": 1}, second)) == [("ctwa", ["a", "b"])]


def test_a_list_that_trains_something_else_is_another_group(groups):
    other = CONFIG.replace("  lr: 0.1\n", "  lr: 0.1\n  files:\n  - a\n")
    assert len(groups(("a", {"seed": 0}, CONFIG), ("b", {"seed": 1}, other))) == 2


OBJECTIVE = "  objectives:\n    accuracy:\n      weight: 0.5\n"
OLD = CONFIG + "  stop_within: 600\n" + OBJECTIVE + "      target: 0.1\n"
NEW = CONFIG + "  max_unknown_tokens: 0.1\n" + OBJECTIVE + "      target: 0.1\n"


def test_what_another_version_of_ctwa_wrote_beside_makes_no_other_group(groups):
    assert groups(("a", {"seed": 0}, OLD), ("b", {"seed": 1}, NEW)) == [("ctwa", ["a", "b"])]


@pytest.mark.parametrize(
    "added",
    [
        NEW.replace("lr: 0.1", "lr: 0.1\n  warmup: 5"),  # of the engine, which writes all of its keys
        NEW.replace("target: 0.1", "target: 0.2"),  # which run.json does not have where it is no covariance's
        NEW.replace("target: 0.1", "target: 0.1\n      limit: 3"),
        NEW.replace("max_unknown_tokens: 0.1", "method:\n    eta: 0.1"),
    ],
)
def test_what_was_added_to_one_run_makes_another_group(groups, added):
    assert len(groups(("a", {"seed": 0}, NEW), ("b", {"seed": 1}, added))) == 2


def test_a_configuration_that_cannot_be_read_is_like_no_other(groups):
    assert len(groups(("a", {"seed": 0}, "a: ["), ("b", {"seed": 1}, "a: ["))) == 2


def test_another_setting_is_another_group(groups):
    runs = [("x-s0", {"seed": 0}, CONFIG), ("x-s1", {"seed": 1}, CONFIG)]
    runs += [
        ("y-seed=0", {"seed": 0}, CONFIG.replace("0.1", "0.2")),
        ("y-seed=1", {"seed": 1}, CONFIG.replace("0.1", "0.2")),
    ]
    assert groups(*runs) == [("x", ["x-s0", "x-s1"]), ("y", ["y-seed=0", "y-seed=1"])]


def test_labels_without_a_common_beginning_are_those_of_the_first(groups):
    other = CONFIG.replace("0.1", "0.2")
    runs = [
        ("a", {"seed": 0}, CONFIG),
        ("b", {"seed": 1}, CONFIG),
        ("c", {"seed": 0}, other),
        ("d", {"seed": 1}, other),
    ]
    assert [label for label, _ in groups(*runs)] == ["a and 1 more", "c and 1 more"]


def test_a_repeated_seed_and_an_unknown_one_stand_alone(groups):
    runs = [("a", {"seed": 0}, CONFIG), ("b", {"seed": 0}, CONFIG), ("c", {}, CONFIG), ("d", {}, CONFIG)]
    assert groups(*runs) == [("a", ["a"]), ("b", ["b"]), ("c", ["c"]), ("d", ["d"])]


def test_objectives_are_those_of_any_run(make_run):
    runs = [make_run(name, STEPS, info(names)).path for name, names in (("a", ("x", "y")), ("b", ("z", "y")))]
    assert objectives_of(read_runs(runs)) == ["x", "y", "z"]
