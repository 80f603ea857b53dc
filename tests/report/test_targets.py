"""Targets suggested from the covariances of recorded runs."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.engine.compose import compose_config
from ctwa.errors import CtwaError
from ctwa.report.targets import suggest_targets, suggestions_text
from ctwa.run import ObjectiveInfo
from tests.run.runs import info

RISES, FALLS = (0.5, 0.9), (0.5, 0.1)


@pytest.fixture
def linear(make_run):
    """A run with covariances of 0.01, 0.02, ..., 0.11 times each objective's factor, which rises or falls."""

    def make(name="linear", num_steps=11, target=None, in_python=False, **objectives):
        steps = {step: {} for step in range(num_steps + 1)}
        for objective, (factor, (start, end)) in objectives.items():
            for step in range(1, num_steps + 1):
                steps[step][f"covariance/{objective}"] = factor * step / 100
            steps[0] |= {f"val/{objective}": start, f"val_standard_error/{objective}": 0.01}
            steps[num_steps] |= {f"val/{objective}": end, f"val_standard_error/{objective}": 0.01}
        about = {each: ObjectiveInfo(weight=0.5, target=target) for each in objectives}
        return make_run(name, steps, info(method="linear", seed=0, objectives=about, in_python=in_python)).path

    return make


def test_what_gained_gets_a_floor_and_what_did_not_what_the_best_steps_reached(linear):
    run = linear(gained=(1, RISES), kept=(1, (0.5, 0.5)), lost=(2, FALLS), against=(-1, FALLS))
    found = suggest_targets([run]).objectives
    # 0.01 to 0.11: the deciles are 0.02 and 0.10, the median 0.06; a third of it is the decile too.
    assert {name: (each.verdict, each.target) for name, each in found.items()} == {
        "gained": ("gained", 0.02),
        "kept": ("kept", 0.1),
        "lost": ("lost", 0.2),
        "against": ("lost", 0.0),  # its best steps were below 0: it is at least not to fall
    }


def test_one_without_a_verdict_is_said_to_have_none(linear):
    nothing = (float("nan"), float("nan"))
    text = suggestions_text(suggest_targets([linear(accuracy=(1, RISES), clarity=(1, nothing), brevity=(1, nothing))]))
    assert "Whether clarity, brevity gained is not known" in text or "Whether brevity, clarity gained is not" in text
    assert "is not known" not in suggestions_text(suggest_targets([linear("other", accuracy=(1, RISES))]))


def test_what_is_printed_can_be_pasted_into_a_command(linear, tmp_path):
    run = linear(accuracy=(1, FALLS), conciseness=(2, RISES), clarity=(2, RISES))
    out = tmp_path / "targets.json"
    shown = CliRunner().invoke(app, ["suggest-targets", str(run), "--json", str(out)], catch_exceptions=False).output
    pasted = next(line.split() for line in shown.splitlines() if line.startswith("  method=ctwa"))
    config = compose_config(["task=testbed", "engine=cpu", "ctwa.task_dir=x", "ctwa.run=y", *pasted], command="train")
    assert {name: each.target for name, each in config.ctwa.objectives.items()} == {
        "accuracy": 0.1,
        "conciseness": 0.04,
        "clarity": 0.04,
    }
    written = json.loads(out.read_text())
    assert written["overrides"] == pasted
    assert written["objectives"]["accuracy"]["target"] == 0.1


def test_they_can_be_pasted_beside_objectives_that_had_no_target(linear):
    mine = "+ctwa.objectives.mine.reward_fn=reward_fns/clarity.py:clarity"
    pasted = suggest_targets([linear(mine=(1, FALLS))]).overrides
    config = compose_config(
        ["task=testbed", "engine=cpu", "ctwa.task_dir=x", "ctwa.run=y", mine, *pasted], command="train"
    )
    assert config.ctwa.objectives["mine"].target == 0.1


def test_names_that_the_command_line_cannot_hold_are_printed_as_yaml(linear):
    text = suggestions_text(suggest_targets([linear(**{"is it polite?": (1, FALLS)})]))
    assert yaml.safe_load(text[text.index("  ctwa:") :]) == {"ctwa": {"objectives": {"is it polite?": {"target": 0.1}}}}


def test_for_a_script_they_are_printed_as_an_argument(linear):
    text = suggestions_text(suggest_targets([linear(in_python=True, **{"is it polite?": (1, FALLS)})]))
    assert text.endswith("and these:\n  targets={'is it polite?': 0.1}")


def test_runs_that_no_target_can_be_taken_from(linear):
    with pytest.raises(CtwaError, match="has 9 steps with a covariance of a, and targets take 10: train longer"):
        suggest_targets([linear("short", num_steps=9, a=(1, FALLS))])
    with pytest.raises(CtwaError, match="has targets: give a run with fixed weights"):
        suggest_targets([linear("aimed", target=0.1, a=(1, FALLS))])
    with pytest.raises(CtwaError, match=r"are of several methods or settings \(one, two\)"):
        suggest_targets([linear("one", a=(1, FALLS)), linear("two", a=(1, FALLS))])
