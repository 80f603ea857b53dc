"""The report as Markdown."""

from typer.testing import CliRunner

from ctwa import cli
from ctwa.report.markdown import markdown_report, plain
from ctwa.run import ObjectiveInfo
from ctwa.run.alarms import AlarmLimits
from tests.run.runs import info

STEPS = {
    0: {"val/a|b": 0.5, "val/tidy": 0.25, "val_standard_error/a|b": 0.01, "val_standard_error/tidy": 0.01},
    10: {"val/a|b": 0.25, "val/tidy": 0.75, "weight/a|b": 0.5, "weight/tidy": 0.5},
}


def of(make_run, name, **changes):
    objectives = {"a|b": ObjectiveInfo(weight=0.5), "tidy": ObjectiveInfo(weight=0.5)}
    changes = {"method": name, "objectives": objectives, "model": "/home/me/models/base", "num_steps": 10} | changes
    return make_run(name, STEPS, info(**changes)).path


def test_it_says_what_was_lost_what_the_method_did_and_what_to_try(make_run, tmp_path):
    run = of(make_run, "*grpo*", alarms=AlarmLimits(drop_steps=1))
    text = markdown_report([run])

    assert text.startswith(r"**a\|b lost 0.250 (alarm drop since step 10); tidy gained 0.500.**")
    assert r"| a\|b | ▼ **lost**: below its start since step 10 | 0.500 | 0.250 | -0.250 | 0.028 |" in text
    assert "\n- kept the weights of a\\|b and tidy\n" in text
    advice = text.partition("What to try:\n\n")[2].splitlines()[0]
    assert advice.startswith(r"- a\|b: Raise its weight")
    assert "/home/me" not in text
    assert plain("&lt;b&gt;") == r"\&lt;b\&gt;"  # no character in disguise
    assert r"| \*grpo\* | \*grpo\* | 10 | base |" in text


def test_several_methods_are_compared_and_the_command_prints_it_or_writes_it(make_run, tmp_path):
    runs = [str(of(make_run, name, seed=0)) for name in ("linear", "mgda")]
    printed = CliRunner().invoke(cli.app, ["report", *runs, "--format", "markdown"])
    written = CliRunner().invoke(cli.app, ["report", *runs, "--format", "markdown", "--out", str(tmp_path / "r.md")])

    assert (printed.exit_code, written.exit_code) == (0, 0)
    assert printed.stdout == (tmp_path / "r.md").read_text() == markdown_report(runs) + "\n"
    assert "|  | mgda | ▼ **lost**" in printed.stdout
    assert "| linear | 1 | 0.250" in printed.stdout
