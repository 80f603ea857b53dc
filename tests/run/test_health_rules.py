"""Alarms on the rewards themselves: each is raised by what it is for, and noise raises none."""

import random

import pytest

from ctwa.run.alarms import KINDS, AlarmMonitor
from ctwa.run.health_rules import HEALTH_RULES

HEALTH = {rule.kind for rule in HEALTH_RULES}
NAMES = ("accuracy", "brevity", "style")


def feed(records):
    """Every episode of health that these records (metrics, one a step) lead to."""
    monitor = AlarmMonitor(NAMES)
    for step, metrics in enumerate(records):
        monitor.feed({"schema": 2, "step": step, "time": 0.0, "metrics": metrics})
    return [episode for episode in monitor.episodes if episode.alarm.kind in HEALTH]


def run(seed=0, steps=200, **changes):
    """The records of a run in which nothing is learnt: 32 prompts of 8 completions a step, 64 held-out ones.

    Args:
        changes: of a metric's name (its ``/`` as ``__``), what to make of its value at a step.
    """
    draw = random.Random(seed)
    rates = {"accuracy": 0.45, "brevity": 0.8, "style": 0.6}

    def noisy(rate, num):
        return rate + draw.gauss(0, (rate * (1 - rate) / num) ** 0.5)

    records = []
    for step in range(steps):
        metrics = {}
        for name, rate in rates.items():
            # Prompts differ in how hard they are: a step's mean is of 32 prompts more than of 256 completions.
            metrics[f"objective/{name}/mean"] = noisy(rate, 64)
            metrics[f"objective/{name}/std"] = (rate * (1 - rate)) ** 0.5 + draw.gauss(0, 0.02)
            metrics[f"objective/{name}/no_signal_frac"] = noisy(0.3, 32)
            metrics[f"correlation/{name}"] = 0.5 + draw.gauss(0, 0.15)
            metrics[f"weight/{name}"] = 1 / 3
            if step % 10 == 0:
                metrics[f"val/{name}"] = noisy(rate, 64)
                metrics[f"val_standard_error/{name}"] = (rate * (1 - rate) / 64) ** 0.5
        for key, change in changes.items():
            name = key.replace("__", "/")
            if name in metrics:
                metrics[name] = change(metrics[name], step)
        records.append(metrics)
    return records


def raised(records):
    return {(episode.alarm.kind, episode.alarm.objective) for episode in feed(records)}


def test_of_a_hundred_runs_of_noise_fewer_than_five_raise_an_alarm():
    alarmed = [seed for seed in range(100) if feed(run(seed))]
    assert len(alarmed) < 5


def test_a_reward_a_hundred_times_as_large_drowns_the_others():
    drowned = run(
        steps=30,
        correlation__brevity=lambda *_: 0.999,
        correlation__accuracy=lambda value, _: (value - 0.5) / 3,
        correlation__style=lambda value, _: (value - 0.5) / 3,
    )
    assert raised(drowned) == {("dominance", "brevity")}
    # Those without a weight are not meant to be followed, and one that is alone drowns nobody.
    for record in drowned:
        record["weight/accuracy"] = record["weight/style"] = 0.0
    assert raised(drowned) == set()


def test_prompts_whose_completions_are_all_alike_teach_nothing():
    assert raised(run(steps=60, objective__style__no_signal_frac=lambda value, step: 0.97 if step > 20 else value)) == {
        ("saturation", "style")
    }


def test_a_spread_that_is_lost():
    lost = run(steps=60, objective__style__std=lambda value, step: value / 6 if step > 30 else value)
    assert raised(lost) == {("lost-spread", "style")}


@pytest.mark.parametrize("size", [0.35, -0.35])
def test_a_jump_is_told_once_and_a_steady_rise_is_none(size):
    jumped = feed(run(steps=100, objective__accuracy__mean=lambda value, step: value + size * (step >= 50)))
    assert [(episode.alarm.kind, episode.alarm.objective) for episode in jumped] == [("jump", "accuracy")]
    assert 50 < jumped[0].alarm.step <= 55
    assert ("risen" if size > 0 else "fallen") in jumped[0].alarm.text
    assert raised(run(steps=100, objective__accuracy__mean=lambda value, step: value + size * step / 100)) == set()


def test_a_straight_line_does_not_jump_by_rounding():
    for slope in (0.005, -0.005, 0.01, 0.1):
        assert feed([{"objective/accuracy/mean": 0.3 + slope * step} for step in range(60)]) == []


def test_a_jump_names_its_steps_as_a_count():
    [episode] = feed(run(steps=100, objective__accuracy__mean=lambda value, step: value + 0.35 * (step >= 50)))
    assert "off the line of the 20 steps before" in episode.alarm.text


def test_rewards_that_are_negative_are_gamed_as_well():
    def gamed(zero, fall):
        return run(
            steps=100,
            objective__accuracy__mean=lambda value, step: value + 0.3 * step / 100 + zero,
            val__accuracy=lambda value, step: value - fall * (step >= 50) + zero,
        )

    assert raised(gamed(-3.0, 0.35)) == {("hacking", "accuracy")}  # a fall of less than 15 % of 2.55
    assert raised(gamed(-0.45, 0.0)) == set()


def test_a_reward_that_rises_in_training_alone_is_being_gamed():
    def risen(value, step):
        return value + 0.3 * step / 100

    own = run(
        steps=100,
        objective__accuracy__mean=risen,
        val__accuracy=lambda value, step: value - 0.35 * (step >= 50),
    )
    [episode] = feed(own)
    assert (episode.alarm.kind, episode.alarm.objective) == ("hacking", "accuracy")
    assert "while it rose in training" in episode.alarm.text


def test_an_objective_that_only_judges_falls_while_a_trained_one_rises():
    records = run(
        steps=100,
        objective__accuracy__mean=lambda value, step: value + 0.3 * step / 100,
        val__accuracy=lambda value, step: value + 0.3 * step / 100,
        val__style=lambda value, step: value - 0.4 * (step >= 50),
    )
    # A fall of an objective that is trained on as well is interference, which `drop` tells.
    assert raised(records) == set()
    for record in records:
        for key in [key for key in record if "style" in key and not key.startswith("val")]:
            del record[key]
    [episode] = feed(records)
    assert (episode.alarm.kind, episode.alarm.objective) == ("hacking", "style")
    assert "while accuracy rose in training" in episode.alarm.text


def test_they_read_well_and_can_end_a_run():
    assert set(KINDS) >= HEALTH
    texts = [
        *feed(run(steps=100, objective__accuracy__mean=lambda value, step: value + 0.4 * (step >= 50))),
        *feed(run(steps=60, objective__style__no_signal_frac=lambda *_: 1.0)),
        *feed(run(steps=60, objective__style__std=lambda value, step: value / 6 if step > 30 else value)),
    ]
    assert len(texts) == 3
    for episode in texts:
        for text in (episode.alarm.text, episode.alarm.advice):
            assert text.endswith(".")
            assert "{" not in text
