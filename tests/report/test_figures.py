import html
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib import image

from ctwa.errors import CtwaError
from ctwa.report.figures import plot_runs
from tests.run.runs import info, step_metrics

STEPS = {
    0: {"val/accuracy": 0.5, "val/clarity": 0.25},
    1: step_metrics(accuracy=0.5, clarity=0.5),
    2: {**step_metrics(accuracy=0.25, clarity=0.75), "val/accuracy": 0.25, "val/clarity": 0.5},
}


@pytest.fixture
def texts(tmp_path, make_run):
    """The texts of the picture of runs, drawn as SVG."""

    def draw(*runs):
        out = tmp_path / "figures" / "runs.svg"
        plot_runs([run.path for run in runs], out)
        # Matplotlib draws text as outlines and keeps each text as a comment beside them.
        parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
        tree = ElementTree.parse(out, parser)
        return [html.unescape(node.text).strip() for node in tree.iter() if node.tag is ElementTree.Comment]

    return draw


def test_the_picture_names_runs_and_objectives(texts, make_run):
    found = texts(make_run("linear", STEPS), make_run("ctwa", STEPS))
    assert {"linear", "ctwa", "accuracy", "clarity", "covariance target", "step"} <= set(found)
    assert "mean reward, held-out problems" in found


@pytest.mark.parametrize("name", ["<script>", "cost $x_1$ and $", "_hidden", "a & b"])
def test_names_are_drawn_as_they_are(texts, make_run, name):
    run = make_run(name, {1: step_metrics(**{name: 0.5})}, info((name,)))
    assert texts(run).count(name) == 2  # the objective and the run


def test_runs_without_covariances_or_results_are_drawn_too(tmp_path, make_run):
    runs = [make_run("one", STEPS), make_run("two", {1: {"val/accuracy": 0.5}}), make_run("three", {1: {"loss": 1.0}})]
    out = tmp_path / "runs.png"
    plot_runs([run.path for run in runs], out)
    height, width, _ = image.imread(out).shape
    assert width > height > 500


def test_another_kind_of_picture_is_refused(tmp_path, make_run):
    with pytest.raises(CtwaError, match=r"end it in .png, .svg, .pdf"):
        plot_runs([make_run("one", STEPS).path], tmp_path / "runs.doc")
