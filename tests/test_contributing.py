"""CONTRIBUTING.md: its paths are there, and its examples of a method, an aggregator, a loss and a reward run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import has_gradient, norms, unit_scale
from ctwa.batch import RewardMatrix, Rollout
from ctwa.method_info import MethodInfo, Options
from ctwa.preference.losses import WithReference
from ctwa.scalarizers.base import Estimate, Scalarizer, score_advantages
from ctwa.scalarizers.group_relative import GroupRelative
from ctwa.scalarizers.per_objective import judged_rows, taking_part

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def paths_in_the_tree(text: str) -> set[str]:
    """The files and folders of an annotated tree: two spaces are a level, and two or more end the names of a line."""
    paths, parents = set(), [""]
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parents[depth:] = [names[0]]
        paths |= {"".join([*parents[:depth], name]) for name in names}
    return paths


def test_every_path_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:ctwa|docs|examples|recipes|reward_fns|scripts|tests)/[\w./-]*)", TEXT))
    named = {path for path in named | paths_in_the_tree(blocks("text")[0]) if "NAME" not in path}

    assert len(named) > 50
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_its_tree_has_every_package_and_module_of_ctwa() -> None:
    # What an earlier commit left behind, caches alone, is no package.
    there = {path.relative_to(ROOT / "ctwa").parts[0] for path in (ROOT / "ctwa").rglob("*.py")} - {"__init__.py"}
    named = {path.split("/")[1] for path in paths_in_the_tree(blocks("text")[0]) if path.startswith("ctwa/")}

    assert named - {""} == there


@pytest.fixture(scope="module")
def defined() -> dict[str, Any]:
    """What the examples define, after the imports that a module of that kind has."""
    names = {
        each.__name__: each
        for each in (Aggregator, Estimate, Gradients, MethodInfo, Options, Rollout, Scalarizer, Tensor, WithReference)
    }
    names |= {each.__name__: each for each in (has_gradient, judged_rows, norms, score_advantages, taking_part)}
    names |= {"Literal": Literal, "gradient_level": gradient_level, "torch": torch, "unit_scale": unit_scale}
    for block in blocks("python"):
        exec(compile(block, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    return names


def test_the_method_scores_by_the_distances_to_the_best(defined: dict[str, Any]) -> None:
    method = defined["Shortfall"](defined["ShortfallConfig"](), {"a": 1.0, "b": 0.5})
    rewards = RewardMatrix.from_columns({"a": [1, 0, None], "b": [2, 4, 4]})
    rollout = Rollout(rewards, torch.tensor([0, 0, 0]), torch.ones(3, 1))

    # The scores are -.5 and -1; the third completion has none.
    advantages_NT = method.advantages(rollout, GroupRelative(rollout, standardise=False))
    assert advantages_NT.tolist() == [[0.25], [-0.25], [0.0]]


@pytest.mark.parametrize("rewards", [[1e300, -1e300], [1e-300, 0.0], [0.5, 0.5]])
def test_the_method_is_finite_of_rewards_of_any_size(defined: dict[str, Any], rewards: list[float]) -> None:
    """As tests/scalarizers/test_every_method.py asks of every method that is registered."""
    method = defined["Shortfall"](defined["ShortfallConfig"](), {"a": 1.0})
    rollout = Rollout(RewardMatrix.from_columns({"a": rewards}), torch.tensor([0, 0]), torch.ones(2, 1))

    assert method.advantages(rollout, GroupRelative(rollout)).isfinite().all()


def test_the_aggregator_makes_gradients_equally_long(defined: dict[str, Any]) -> None:
    gram_MM = torch.diag(torch.tensor([4.0, 16.0], dtype=torch.float64))
    weights_M = defined["Equal"](defined["EqualConfig"](), {"a": 1.0, "b": 1.0}).solve(gram_MM).weights_M

    assert weights_M.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_loss_and_the_reward(defined: dict[str, Any]) -> None:
    assert defined["SquaredHingeLoss"]().of_margin(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [4.0, 1.0, 0.0]
    assert [defined["polite"](text) for text in ("Please.", "No.")] == [1.0, 0.0]
