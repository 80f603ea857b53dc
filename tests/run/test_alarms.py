import random

import pytest
from pydantic import TypeAdapter, ValidationError

from ctwa.run.alarms import KINDS, AlarmKind, AlarmLimits, AlarmMonitor, alarm_event
from ctwa.run.trace import EventWriter, make_record
from ctwa.run.training_rules import TRAINING_RULES

LIMITS = AlarmLimits(
    drop=0.2,
    drop_steps=3,
    negative_covariance_steps=3,
    infeasible_steps=3,
    clipping_steps=3,
    collapse_steps=3,
    average_steps=2,
)


def feed(steps, monitor=None, start=1):
    """The alarms of records with these metrics, one a step: (step, kind, objective)."""
    monitor = monitor or AlarmMonitor(["accuracy", "clarity"], LIMITS)
    raised = []
    for step, metrics in enumerate(steps, start=start):
        non_finite = [key for key, value in metrics.items() if value is None]
        record = {"schema": 2, "step": step, "time": float(step), "metrics": metrics}
        raised += monitor.feed({**record, "non_finite": non_finite} if non_finite else record)
    return [(alarm.step, alarm.kind, alarm.objective) for alarm in raised], monitor


def curve(key, *values):
    return [{key: value} for value in values]


def test_a_drop_on_held_out_problems_is_told_after_its_steps():
    values = (0.25, 0.5, 0.39, 0.41, 0.39, 0.39, 0.39)
    raised, monitor = feed([{"val/accuracy": value, "val_standard_error/accuracy": 0.01} for value in values])
    assert raised == [(7, "drop", "accuracy")]  # 0.41 is above 80 % of 0.5, so it counts from step 5 on
    [alarm] = monitor.active
    assert (alarm.since, alarm.step) == (5, 7)
    assert alarm.text == ("accuracy has been well below its best for 3 steps: 0.390 after 0.500 on held-out problems.")
    assert "weight" in alarm.advice


@pytest.mark.parametrize("steered", [True, False])
def test_targets_are_spoken_of_where_there_are_some(steered):
    others = {"ctwa/target/accuracy": 0.1} if steered else {}
    for key, values in {"val/accuracy": (0.5, 0.1, 0.1, 0.1), "covariance/accuracy": (-0.1,) * 4}.items():
        [alarm] = feed([{"covariance/accuracy": 0.1} | each | others for each in curve(key, *values)])[1].active
        assert ("method=ctwa" in alarm.advice) is not steered
        assert ("its target" in alarm.advice or "larger target" in alarm.advice) is steered


def test_the_command_to_paste_stands_where_there_are_covariances_to_take_targets_from():
    steps = [{"val/accuracy": value, "covariance/accuracy": 0.1} for value in (0.5, 0.1, 0.1, 0.1)]
    monitor = AlarmMonitor(["accuracy"], LIMITS, run="runs/my run")
    for step, metrics in enumerate(steps, start=1):
        monitor.feed({"schema": 2, "step": step, "time": 0.0, "metrics": metrics})
    assert "`ctwa suggest-targets 'runs/my run'` prints targets." in monitor.active[0].advice
    [plain] = feed(curve("val/accuracy", 0.5, 0.1, 0.1, 0.1))[1].active  # a run of ctwa prefer has none
    assert plain.advice == "Raise its weight, or give the objectives that rose meanwhile less."


def test_an_objective_that_is_only_watched_is_not_told_to_weigh_more():
    steps = [{"val/accuracy": value, "weight/clarity": 1.0} for value in (0.5, 0.1, 0.1, 0.1)]
    [alarm] = feed(steps)[1].active
    assert alarm.advice.startswith(
        "It has no weight, and is only watched: give the objectives that rose meanwhile less"
    )
    [alarm] = feed([each | {"weight/accuracy": 1.0} for each in steps])[1].active
    assert alarm.advice.startswith("Raise its weight")


def test_validations_far_apart_count_the_steps_between_them():
    steps = [{"val/accuracy": 0.5}, {}, {}, {"val/accuracy": 0.3}, {}, {}, {}, {"val/accuracy": 0.3}]
    assert feed(steps)[0] == [(8, "drop", "accuracy")]


def test_a_drop_within_two_standard_errors_is_none():
    noisy = [{"val/accuracy": value, "val_standard_error/accuracy": 0.1} for value in (0.5, 0.35, 0.35, 0.35)]
    assert feed(noisy)[0] == []
    sure = [metrics | {"val_standard_error/accuracy": 0.05} for metrics in noisy]
    assert feed(sure)[0] == [(4, "drop", "accuracy")]


def test_without_validations_the_average_over_training_problems_counts():
    # Averages of two: 0.5, 0.4, 0.3, 0.3, 0.3 against a best of 0.5.
    raised, monitor = feed(curve("objective/accuracy/mean", 0.5, 0.5, 0.3, 0.3, 0.3, 0.3))
    assert raised == [(6, "drop", "accuracy")]
    assert "on training problems" in monitor.active[0].text


def fall_in_training(validated_steps, name="accuracy"):
    """The records of a run in which accuracy falls in training and is 0.5 in its own validations, or another's is."""
    values = [0.5] * 5 + [0.1] * 10
    return [
        {"objective/accuracy/mean": value} | ({f"val/{name}": 0.5} if step in validated_steps else {})
        for step, value in enumerate(values, start=1)
    ]


def test_a_drop_is_looked_for_in_training_until_the_objectives_own_validations_go_on():
    assert feed(fall_in_training({1}))[0] == [(8, "drop", "accuracy")]
    assert feed(fall_in_training({1, 3}))[0] == [(10, "drop", "accuracy")]  # no more from step 7 on
    assert feed(fall_in_training({1, 5, 10, 15}))[0] == []
    assert feed(fall_in_training({1, 5, 10, 15}, "clarity"))[0] == [(8, "drop", "accuracy")]


def test_an_objective_that_few_steps_measure_is_found_wrong_as_often():
    monitor = AlarmMonitor(["accuracy"], LIMITS)
    records = [{"covariance/accuracy": -0.1} if step % 10 == 1 else {} for step in range(1, 32)]
    assert feed(records, monitor)[0] == [(21, "negative-covariance", "accuracy")]  # at steps 1, 11 and 21
    assert "for 21 steps" in monitor.active[0].text


def test_a_fall_from_0_and_to_0_has_the_standard_error_of_other_validations():
    rates = (0.0, 0.01, 0.0, 0.0, 0.0, 0.0)
    steps = [{"val/accuracy": p, "val_standard_error/accuracy": (p * (1 - p) / 99) ** 0.5} for p in rates]
    assert feed(steps)[0] == []
    penalty = [{"val/accuracy": value, "val_standard_error/accuracy": -value} for value in (0.0, *[-0.004] * 5)]
    assert feed(penalty)[0] == []


def drops(values, zero=0.0, std=None, key="objective/accuracy/mean"):
    """Whether a drop is told of these values moved by `zero`, with the default limits."""
    std = {} if std is None else {"objective/accuracy/std": std}
    steps = [{key: value + zero} | std for value in values]
    return any(kind == "drop" for _, kind, _ in feed(steps, AlarmMonitor(["accuracy"]))[0])


@pytest.mark.parametrize("std", [None, 0.4])
@pytest.mark.parametrize("zero", [0.0, -1.0, -100.0])
def test_a_collapse_is_a_drop_wherever_the_zero_of_the_rewards_is(zero, std):
    draw = random.Random(0)
    assert drops([(0.9 if step < 60 else 0.2) + draw.gauss(0, 0.02) for step in range(120)], zero, std)


@pytest.mark.parametrize("std", [None, 0.1])
@pytest.mark.parametrize("zero", [0.5, 0.02, 0.0, -0.05, -3.0])
def test_noise_in_training_is_no_drop_wherever_the_zero_of_the_rewards_is(zero, std):
    for num_steps, num_runs, most in ((100, 30, 1), (1000, 2, 0)):
        draw = random.Random(0)
        runs = [[draw.gauss(0, 0.02) for _ in range(num_steps)] for _ in range(num_runs)]
        assert sum(drops(values, zero, std) for values in runs) <= most


def test_validations_without_standard_errors_have_the_noise_of_their_scatter():
    draw = random.Random(0)
    runs = [[draw.gauss(0, 0.02) for _ in range(40)] for _ in range(40)]
    assert sum(drops(values, -0.05, key="val/accuracy") for values in runs) <= 2
    assert drops([0.9] * 3 + [0.2] * 20, -1.0, key="val/accuracy")  # one fall does not hide itself


def test_a_covariance_below_zero():
    raised, monitor = feed(curve("covariance/clarity", 0.1, -0.1, -0.1, 0.0, -0.1, -0.1, -0.2, -0.1))
    assert raised == [(7, "negative-covariance", "clarity")]
    assert monitor.episodes[0].last == 8


def test_steps_without_a_measurement_neither_raise_nor_end_anything():
    steps = [{"covariance/clarity": -0.1}, {}, {"covariance/clarity": -0.1}, {}, {"covariance/clarity": -0.1}, {}]
    raised, monitor = feed(steps)
    assert raised == [(5, "negative-covariance", "clarity")]
    assert len(monitor.active) == 1


def test_targets_that_cannot_be_met():
    assert feed(curve("ctwa/feasibility", 1.0, 1.1, 1.1, 1.2))[0] == [(4, "infeasible-targets", None)]


@pytest.mark.parametrize(
    ("covariance", "bound", "wrong"),
    [
        (0.1, 0.05, False),  # something is certain
        (0.1, -0.05, True),  # nothing is
        (-0.1, -0.12, False),  # negative by itself, clipping or not
        (-0.1, -0.3, True),  # clipping can have turned it
        (-0.1, -0.1, False),  # no clipping
    ],
)
def test_clipping_that_can_have_taken_all(covariance, bound, wrong):
    step = {"covariance/accuracy": covariance, "clip/bound/accuracy": bound}
    kinds = {kind for _, kind, _ in feed([step] * 4)[0]}
    assert ("clipping" in kinds) == wrong


def test_completions_that_could_not_be_scored():
    raised, monitor = feed(curve("objective/accuracy/scored_frac", 1.0, 0.95, 0.9))
    assert raised == [(3, "unscored", "accuracy")]
    assert monitor.active[0].text.startswith("10% of the completions")


@pytest.mark.parametrize(
    ("key", "kind"), [("actor/entropy", "entropy-collapse"), ("response_length/mean", "length-collapse")]
)
def test_entropy_and_length_against_the_first_steps(key, kind):
    raised, monitor = feed(curve(key, 3.0, 1.0, 0.5, 0.4, 0.4, 0.4))
    assert raised == [(6, kind, None)]  # a quarter of 2
    assert "0.400" in monitor.active[0].text
    assert "2.000" in monitor.active[0].text


def test_an_update_that_is_not_finite():
    raised, monitor = feed([{"actor/grad_norm": None, "covariance/accuracy": None}])
    assert raised == [(1, "non-finite", None)]
    assert monitor.active[0].text == "The update was not finite: actor/grad_norm."


@pytest.mark.parametrize("skipped", [{"actor/grad_norm": None}, {"gradient/skipped": 1.0, "actor/grad_norm": 0.5}])
def test_a_run_that_makes_no_updates(skipped):
    updated = {"gradient/skipped": 0.0, "actor/grad_norm": 0.5}
    raised, monitor = feed([skipped] * 4 + [updated] + [skipped] * 5)
    assert [each for each in raised if each[1] == "no-update"] == [(10, "no-update", None)]
    told = next(alarm.text for alarm in monitor.active if alarm.kind == "no-update")
    assert told == "Updates have been left out for 5 steps: their gradients were not finite."


def test_a_covariance_that_no_prompt_group_gives_is_no_alarm():
    assert feed([{"covariance/accuracy": None, "clip/bound/accuracy": None}] * 5)[0] == []


def test_an_alarm_is_raised_again_only_after_it_was_over():
    raised, monitor = feed(curve("objective/clarity/scored_frac", 0.5, 0.5, 1.0, 0.5))
    assert [step for step, _, _ in raised] == [1, 4]
    assert [(each.alarm.since, each.last, each.over) for each in monitor.episodes] == [(1, 2, True), (4, 4, False)]


def test_objectives_are_found_in_the_records():
    metrics = {"objective/{a} b/mean": 0.5, "objective/{a} b/scored_frac": 0.0}
    raised, monitor = feed([metrics], AlarmMonitor(limits=LIMITS))
    assert raised == [(1, "unscored", "{a} b")]
    assert "{a} b" in monitor.active[0].text


def test_feeding_in_two_parts_is_feeding_at_once():
    steps = curve("covariance/clarity", -0.1, -0.1, -0.1, 0.1, -0.1, -0.1, -0.1)
    together, _ = feed(steps)
    first, monitor = feed(steps[:2])
    second, _ = feed(steps[2:], monitor, start=3)
    assert first + second == together


def test_peeking_raises_what_feeding_will_and_changes_nothing():
    steps = curve("covariance/clarity", -0.1, -0.1, -0.1, 0.1, -0.1)
    monitor, untouched = (AlarmMonitor(["accuracy", "clarity"], LIMITS) for _ in range(2))
    for step, metrics in enumerate(steps, start=1):
        record = make_record(step, metrics)
        peeked = monitor.peek(record)
        assert peeked == monitor.peek(record) == monitor.feed(record)
        untouched.feed(record)
        assert monitor.episodes == untouched.episodes
    assert [episode.alarm.step for episode in monitor.episodes] == [3]


def test_lost_completions_are_told_once_while_they_last_whichever_split_they_are_of():
    train, held_out = "rollout/missing_rows", "val_rollout/missing_rows"
    steps = [{train: 0}, {train: 2}, {train: 1}, {}, {train: 0}, {train: 0, held_out: 3}, {train: 0, held_out: 0}]
    raised, monitor = feed(steps)
    assert raised == [(2, "lost-completions", None), (6, "lost-completions", None)]
    assert [episode.over for episode in monitor.episodes] == [True, True]
    assert monitor.episodes[0].alarm.text.startswith("2 completions were lost")


def test_every_kind_has_been_seen_and_reads_well():
    wrong = {
        "val/accuracy": 0.1,
        "covariance/accuracy": -0.1,
        "clip/bound/accuracy": -0.5,
        "ctwa/feasibility": 2.0,
        "objective/accuracy/scored_frac": 0.5,
        "rollout/missing_rows": 4,
        "actor/entropy": 0.1,
        "response_length/mean": 1.0,
        "actor/grad_norm": None,
        "rewards/left_processes": 60,
        "rewards/left_processes/{sleep}": 60,
    }
    fine = {"rewards/left_processes": 0, "val/accuracy": 0.9, "actor/entropy": 3.0, "response_length/mean": 100.0}
    raised, monitor = feed([fine, fine, *[wrong] * 5])
    assert {kind for _, kind, _ in raised} == {rule.kind for rule in TRAINING_RULES}
    for alarm in monitor.active:
        assert alarm.text.endswith(".")
        assert alarm.advice.endswith(".")
        assert "{" not in (alarm.text + alarm.advice).replace("{sleep}", "")


def test_processes_that_pile_up_are_told_and_helpers_that_are_kept_are_not():
    key = "rewards/left_processes"
    assert feed(curve(key, 64, 64, 96, 114, 64, 110))[0] == []
    monitor = AlarmMonitor(["accuracy"], AlarmLimits(left_processes=10))
    of_sleep = {f"{key}/sleep": 13.0, f"{key}/node": 2.0}
    raised, _ = feed([{key: 4.0}, {key: 14.0}, {key: 15.0} | of_sleep, {key: 16.0}, {}, {key: 9.0}], monitor)
    assert raised == [(3, "left-processes", None)]
    assert monitor.active == []
    [episode] = monitor.episodes
    assert "15 processes live that reward" in episode.alarm.text
    assert "(most of them: 13 sleep, 2 node)" in episode.alarm.text


def test_an_alarm_goes_into_the_events(tmp_path):
    _, monitor = feed(curve("objective/clarity/scored_frac", 0.5))
    with EventWriter(tmp_path / "events.jsonl", clock=lambda: 5.0) as events:
        event = events.write(**alarm_event(monitor.active[0]))
    assert (event["kind"], event["step"]) == ("alarm", 1)
    assert event["text"].startswith("unscored: 50% of the completions")


@pytest.mark.parametrize("wrong", [{"drop": 0.0}, {"drop_steps": 0}, {"dorp": 0.1}, {"unscored": float("nan")}])
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        AlarmLimits(**wrong)


def test_a_name_that_is_no_alarm_is_answered_with_those_that_are():
    kinds = TypeAdapter(list[AlarmKind])
    assert kinds.validate_python(list(KINDS)) == list(KINDS)
    with pytest.raises(ValidationError) as refused:
        kinds.validate_python(["drop", "{dorp}"])
    [error] = refused.value.errors()
    assert error["loc"] == (1,)
    assert error["msg"].startswith("Value error, '{dorp}' is no alarm; write some of drop, negative-covariance, ")


@pytest.mark.parametrize(
    "values",
    [
        [0.35, 0.5, 0.57, 0.61, 0.05, 0.04],  # a rise before a fall is no noise
        [0.35, 0.5, 0.57, 0.61, 0.63, 0.44, 0.25, 0.05, 0.04],  # nor is a fall over several validations
    ],
)
def test_few_validations_without_standard_errors_do_not_hide_a_collapse(values):
    steps = [{"val/accuracy": values[step // 10]} if step % 10 == 0 else {} for step in range(10 * len(values))]
    raised, _ = feed(steps, AlarmMonitor(["accuracy"]), start=0)
    assert [kind for _, kind, _ in raised] == ["drop"]
    rising = [{"val/accuracy": value} for value in sorted(values)]
    assert feed(rising, AlarmMonitor(["accuracy"]))[0] == []
