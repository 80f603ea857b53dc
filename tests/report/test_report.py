"""The report as a page: what it says and draws of runs, and that it needs nothing beside itself."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from ctwa import metrics as key_of
from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.report.html import make_report, page, write_report
from ctwa.report.html.charts import chart, escape, palette
from ctwa.report.html.page import script_json, with_code
from ctwa.report.html.samples import early_and_late, on_the_same_prompts
from ctwa.report.story import tell
from ctwa.run import SampleWriter
from tests.report.pages import Page, numbers
from tests.run.runs import info, step_metrics


def test_the_answer_stands_first(paths):
    found = Page(page(make_report(paths)))
    header, first, second = found.rows[:3]
    assert header[:4] == ["objective", "method", "verdict", "start"]
    gained = [
        "accuracy",
        "linear",
        "▲ gained (so 2 of 2 seeds)",
        "0.500",
        "0.700",
        "+0.200",
        "0.020",
        "0.700 step 10",
        "-",
    ]
    assert first == gained
    assert second[1] == "ctwa"
    clarity = next(row for row in found.rows if row[0] == "clarity")
    assert clarity[2] == "▼ lost: below its start since step 5 (so 2 of 2 seeds)"
    assert clarity[-1] == "-0.200 steps 0 to 10"


def test_the_sentence_of_the_summary_stands_on_top_and_the_weights_and_commands_below(paths):
    report = make_report(paths)
    told, text = tell(report.groups, report.comparison), page(report)
    assert told == report.story
    assert text.index(f'<p class="headline">{told.headline}</p>') < text.index("<table>")
    assert "kept the weights of accuracy (its covariance was below its target of 0.100 in 60% of the steps)" in text
    assert f"<dt>{escape(told.commands[1][0])}</dt>" in text


def test_commands_in_advice_are_code_and_all_of_it_is_escaped():
    assert with_code("`ctwa targets <run>` & more") == "<code>ctwa targets &lt;run&gt;</code> &amp; more"
    assert with_code("raise <b>`s weight") == "raise &lt;b&gt;`s weight"  # a name with a backtick


def test_what_a_step_took_beside_its_phases_is_other_and_validating_and_saving_are_beside_it(make_run):
    phases = {"time/step": 2.0, "time/gen": 1.5, "time/testing": 3.0, "time/save_checkpoint": 4.0}
    run = make_run("linear", {1: {"val/accuracy": 0.5} | phases})
    (section,) = [each for each in make_report([run.path]).sections if each.name == "time"]
    assert section.figures[0].parts == {"gen": [1.5], "testing": [3.0], "save_checkpoint": [4.0], "other": [0.5]}


def test_every_section_has_its_figures(paths):
    report = make_report(paths)
    titles = {section.name: [figure.title for figure in section.figures] for section in report.sections}
    assert list(titles) == ["front", "objectives", "control", "probes", "gradients", "update", "time"]
    assert titles["front"] == ["accuracy and clarity", "hypervolume of the results"]
    assert titles["objectives"][:2] == ["accuracy, held-out problems", "accuracy, training problems"]
    assert {"accuracy: covariance with the update", "clarity: weight"} <= set(titles["control"])
    assert {"accuracy: norm of its gradient", "accuracy:clarity: cosine"} <= set(titles["gradients"])
    assert "accuracy:clarity: cosine, cross-fitted" in titles["gradients"]
    assert "clarity: completions that could be scored" in titles["update"]
    assert "accuracy: completions that could be scored" not in titles["update"]
    assert titles["time"] == ["time of a run by phase", "time of a step"]


def test_every_chart_is_one_that_plotly_takes(paths):
    report = make_report(paths)
    figures = [figure for section in report.sections for figure in section.figures]
    found = Page(page(report))
    assert len(found.charts) == len(figures) == found.tags.count("figure")
    for each in found.charts:
        go.Figure(each)  # raises where a name or value is none of plotly's
        assert each["data"]


def test_the_numbers_of_a_chart_are_those_of_the_trace(paths):
    report = make_report(paths[:1])
    figure = next(f for s in report.sections for f in s.figures if f.title == "accuracy, held-out problems")
    [trace] = chart(figure, 1000)["data"]
    assert numbers(trace["x"]) == [0, 5, 10]
    assert numbers(trace["y"]) == pytest.approx([0.5, 0.6, 0.7])


def test_seeds_are_drawn_as_their_mean_and_range(paths):
    report = make_report(paths)
    figure = next(f for s in report.sections for f in s.figures if f.title == "accuracy: covariance with the update")
    data = chart(figure, 1000)["data"]
    assert [trace.get("fill") for trace in data] == ["toself", None, "toself", None]
    assert [trace["meta"]["group"] for trace in data] == [0, 0, 1, 1]


def test_the_unscored_are_listed_by_reason(paths):
    rows = Page(page(make_report(paths[:1]))).rows
    assert ["linear-s0", "clarity", "1.00%", "1.00%", "0.00%", "0.00%", "1.00%"] in rows


def test_where_the_time_went(paths):
    report = make_report(paths[:1])
    bars = report.sections[-1].figures[0]
    # 10 steps of 2 s, 1.5 s of each generation; testing is not part of a step.
    assert bars.parts == {"gen": [15.0], "testing": [5.0], "other": [5.0]}


def test_methods_side_by_side_have_intervals(paths):
    rows = Page(page(make_report(paths))).rows
    linear = next(row for row in rows if row[:2] == ["linear", "2"])
    assert linear[2:5] == ["0.700 [0.700, 0.700]", "0.300 [0.300, 0.300]", "0.210 [0.210, 0.210]"]
    ctwa = next(row for row in rows if row[:2] == ["ctwa", "2"])
    assert ctwa[2] == "0.700 [0.700, 0.700]" + "0.000 [0.000, 0.000]".replace("0.000", "+0.000")


def test_alarms_stand_in_the_report(make_run):
    steps = {0: {"val/accuracy": 0.5}} | {step: {"val/accuracy": 0.2, "time/step": 1.0} for step in range(1, 13)}
    rows = Page(page(make_report([make_run("r", steps).path]))).rows
    [alarm] = [row for row in rows if row[1:2] == ["drop"]]
    assert alarm[0] == "r"
    assert alarm[2] == "1 to 12"
    assert alarm[3].startswith("accuracy has been well below its best")


def test_samples_early_and_late_with_rewards(paths):
    text = page(make_report(paths[:1]))
    assert text.index("prompt of 1<") < text.index("prompt of 10<")
    assert "response &lt;b&gt;of&lt;/b&gt; 10" in text
    assert "accuracy <b>not scored</b>" in text


NAMES = [
    "<script>alert(1)</script>",
    "a b/c",
    '"><img src=x onerror=alert(1)>',
    "%{x} $x$ &amp;",
    "</script>",
    "{{ 7*7 }}",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_named_stays_text(make_full_run, tmp_path, name):
    folder = re.sub("/", "_", name)
    text = page(make_report([make_full_run(folder, (name, "b"), method=name, model=name)]))
    plain = Page(page(make_report([make_full_run("plain", ("a", "b"), method="m", model="n")])))
    found = Page(text)
    # The same elements, attributes by name and scripts as with plain names: nothing became markup.
    assert found.tags == plain.tags
    assert [(tag, list(each)) for tag, each in found.attributes] == [
        (tag, list(each)) for tag, each in plain.attributes
    ]
    assert found.scripts[1:] == plain.scripts[1:]
    assert found.rows[1][:2] == [name, name]
    assert any(trace["name"] == escape(name) for each in found.charts for trace in each["data"])


def test_json_in_a_script_cannot_end_it():
    text = script_json({"<!--</script>&": ["\u2028"]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"<!--</script>&": ["\u2028"]}


def test_the_page_asks_for_nothing_from_outside(paths):
    found = Page(page(make_report(paths)))
    sources = [each.get("src") or each.get("href") for tag, each in found.attributes]
    assert set(sources) == {None}
    policy = next(each["content"] for tag, each in found.attributes if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_a_half_written_last_line_is_left_out(paths):
    with (paths[0] / "metrics.jsonl").open("ab") as file:
        file.write(b'{"schema": 2, "step": 11, "metr')
    with (paths[0] / "samples.jsonl").open("ab") as file:
        file.write(b'{"schema": 2, "step": 11, "spl')
    assert make_report(paths[:1]).runs[0].last_step == 10
    assert [each.step for each in early_and_late(paths[0] / "samples.jsonl")[1]] == [10, 10]


def test_missing_files_are_named(paths):
    for name in ("run.json", "samples.jsonl", "config.yaml"):
        (paths[0] / name).unlink()
    found = Page(page(make_report(paths[:1])))
    notes = next(row for row in found.rows if row[0] == "linear-s0" and len(row) == 9)[-1]
    assert notes == "no run.json: method, seed and targets are not known; no samples.jsonl"
    assert found.rows[1][:2] == ["accuracy", "linear-s0"]


def test_what_two_methods_wrote_to_a_prompt_stands_side_by_side(make_full_run):
    runs = [make_full_run(method, method=method) for method in ("linear", "ctwa")]
    for run, reward in zip(runs, (0.25, 0.75), strict=True):
        with SampleWriter(run / "samples.jsonl", resume_after=10) as samples:
            samples.write(
                11, ["shared", f"{run.name} alone"], ["x", "y"], {"accuracy": [reward, 1.0], "clarity": [1.0] * 2}
            )
    [newest, *_] = pairs = on_the_same_prompts([run / "samples.jsonl" for run in runs])

    assert [(each.step, each.prompt, each.rewards["accuracy"]) for each in newest] == [
        (11, "shared", 0.25),
        (11, "shared", 0.75),
    ]
    assert [each[0].prompt for each in pairs] == ["shared", "prompt of 10", "prompt of 1"]
    shown = Page(page(make_report(runs))).attributes
    differing = [attributes["data-differs"] for _, attributes in shown if attributes.get("class") == "pair"]
    assert differing == [" 0 ", " ", " "]


OWN = {
    "ctwa": ("ctwa/ema/accuracy", "ctwa/num_fallback"),
    "lagrangian": ("lagrangian/multiplier/accuracy", "lagrangian/multiplier/clarity", "lagrangian/target/clarity"),
    "pama": ("pama/zero_rows", "pama/noon/accuracy"),
    "cagrad_clip": ("cagrad/clip_active", "cagrad/mixture/clarity"),
    "caid": ("caid/slack/accuracy", "dual/value", "preference/composite/loss", "caid/multiplier/accuracy"),
    "of tomorrow": ("tomorrow/key/clarity", "tomorrow/other_key"),
}


def test_the_method_section_draws_what_any_method_says_of_itself(make_run):
    """Every metric is drawn once, in the panel of its key, with its number; what all methods have is not."""
    for method, names in OWN.items():
        metrics = step_metrics(accuracy=0.5) | {name: index + 0.5 for index, name in enumerate(names)}
        metrics |= {"critic/score/mean": 1.0, "training/epoch": 1.0, "actor/entropy": 1.0, "loss": 1.0}
        report = make_report([make_run(method, {1: metrics, 2: metrics}, info(method=method)).path])
        [section] = [section for section in report.sections if section.name == "method"]
        drawn = {}
        for panel in section.figures:
            drawn |= {(panel.title, line.label): line.curve.values[-1] for line in panel.lines}
        expected = {}
        for index, name in enumerate(names):
            family, key, objective = key_of.parse(name)
            expected[f"{family}: {key.replace('_', ' ')}", objective or method] = index + 0.5
        assert drawn == expected


def test_sources_have_a_line_each_in_a_section_of_their_own(make_run):
    keys = [f"{family}/accuracy/{source}" for family in ("val_source", "objective_source") for source in ("x", "y/z")]
    steps = {step: step_metrics(accuracy=0.5) | dict.fromkeys(keys, step / 8) for step in (1, 2)}
    sections = {section.name: section for section in make_report([make_run("run", steps).path]).sections}
    held_out, training = sections["sources"].figures
    assert (held_out.title, training.title) == ("accuracy, held-out problems", "accuracy, training problems")
    assert [[line.label for line in panel.lines] for panel in (held_out, training)] == [["x", "y/z"]] * 2
    assert training.lines[1].curve.values.tolist() == [0.125, 0.1875]  # averages
    assert "method" not in sections
    plain = make_report([make_run("plain", {1: step_metrics(accuracy=0.5)}).path])
    assert "sources" not in [section.name for section in plain.sections]


def test_methods_with_metrics_of_one_name_have_a_panel_each(make_run):
    steps = {1: step_metrics(accuracy=0.5) | {"ctwa/ema/accuracy": 0.25, "ctwa/feasibility": 0.5}}
    paths = [make_run(name, steps, info(method=name)).path for name in ("one", "two")]
    [section] = [section for section in make_report(paths).sections if section.name == "method"]
    assert [panel.title for panel in section.figures] == ["ctwa: ema, one", "ctwa: ema, two"]


def test_another_schema_is_refused(paths):
    trace = paths[0] / "metrics.jsonl"
    trace.write_text(trace.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(CtwaError, match="has schema 3, and this ctwa reads 2"):
        make_report(paths)


def test_a_run_that_has_measured_nothing_says_so(make_run, tmp_path):
    with pytest.raises(CtwaError, match="no result of any objective yet"):
        write_report([make_run("r", {1: {"loss": 1.0}}).path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_runs_with_nothing_in_common_are_shown_by_themselves(make_run):
    runs = [
        make_run("a", {1: {"val/x": 0.5}}, info(("x",), method="a")),
        make_run("b", {2: {"val/y": 0.5}}, info(("y",))),
    ]
    report = make_report([run.path for run in runs])
    assert report.comparison is None
    assert [row[:2] for row in Page(page(report)).rows[1:3]] == [["x", "a"], ["y", "ctwa"]]


def test_a_broken_character_of_a_model_can_be_written(make_full_run, tmp_path):
    path = make_full_run("r")
    with SampleWriter(path / "samples.jsonl", resume_after=0) as samples:
        samples.write(1, ["\ud83d"], ["\ud83d"], {"accuracy": [1.0]})
    write_report([path], tmp_path / "report.html")
    (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_light_colour_has_a_dark_one_and_both_can_be_seen():
    def luminance(color):
        channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for light, dark in palette().items():
        if light.startswith("#"):
            assert 1.05 / (luminance(light) + 0.05) >= 3
            assert (luminance(dark) + 0.05) / (luminance("#15171a") + 0.05) >= 3


def test_the_command_writes_a_report_and_figures(make_run, tmp_path):
    out, figures = tmp_path / "a b" / "report.html", tmp_path / "figures"
    run = make_run("run", {1: step_metrics(**{"a/b": 0.5}) | {"pama/zero_rows": 0.5}}, info(("a/b",)))
    result = CliRunner().invoke(
        app, ["report", str(run.path), "--out", str(out), "--figures", str(figures)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    names = {path.stem for path in figures.iterdir()}
    assert names == {"objective-a-b-mean", "covariance-a-b", "weight-a-b", "pama-zero_rows", "time", "time-step"}
    assert {path.suffix for path in figures.iterdir()} == {".pdf", ".svg", ".png"}
    assert len(list(figures.iterdir())) == 3 * len(names)
    CliRunner().invoke(app, ["report", str(run.path)], catch_exceptions=False)
    assert (run.path / "report.html").read_bytes() == out.read_bytes()
