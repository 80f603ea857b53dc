"""What the recipes of preference alignment ask for: every run they start passes the checks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ctwa.engine.caid_settings import CaidSettings, read_caid_settings
from ctwa.engine.checks.config import check_config
from ctwa.engine.compose import compose_config
from ctwa.engine.prefer_job import check_preference_config, prepare_data
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.settings import Settings
from ctwa.testbed.preferences import make_preferences

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "preference").glob("*.sh"))
PREFERENCE_METHODS = {
    "amopo_static": ("linear", "simpo"),
    "clamp": ("clamp", "dpo"),
    "clamp_front": ("clamp", "dpo"),
    "dpo_lw": ("linear", "dpo"),
    "modpo": ("linear", "dpo"),
    "pku_clamp": ("clamp", "dpo"),
    "pku_raco": ("cagrad_clip", "dpo"),
    "pwg_modpo": ("linear", "dpo"),
    "raco": ("cagrad_clip", "dpo"),
    "raco_front": ("cagrad_clip", "dpo"),
    "raco_unclipped": ("cagrad", "dpo"),
    "soups": ("linear", "dpo"),
}
SHARES = ("0.20", "0.35", "0.50", "0.65", "0.80")

Calls = list[list[str]]
CallsOf = Callable[..., Calls]


@pytest.fixture(scope="module")
def pairs_dir(task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the task's folder, with the pairs that the recipes make, and comparisons as PKU-SafeRLHF has them."""
    copy = tmp_path_factory.mktemp("recipes") / "task"
    shutil.copytree(task_dir, copy, ignore=shutil.ignore_patterns("pairs"))  # another file's tests make pairs there
    for seed, folder in enumerate(("pairs", "pairs-1")):
        make_preferences("D", copy / folder, seed=seed, num_train=64, num_validation=8, num_test=8)
    rows = [
        {
            "prompt": f"Compute mod 10 : {row % 10} + {row // 10} ?",
            "response_0": r"\boxed{ 1 }",
            "response_1": r"Step 1 : 3 + 4 . \boxed{ 2 }",
            "better_response_id": row % 2,
            "safer_response_id": row % 3 % 2,
        }
        for row in range(100)
    ]
    (copy / "safe_rlhf.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (copy / "testbed.json").write_text(json.dumps({"settings": {"preset": "D"}}, indent=2))
    return copy


@pytest.fixture
def calls_of(tmp_path: Path, pairs_dir: Path) -> CallsOf:
    """What a recipe asks of `ctwa`, call by call, by a `ctwa` that writes its arguments down."""
    stub, log = tmp_path / "ctwa", tmp_path / "calls"
    stub.write_text(f'#!/usr/bin/env bash\n{{ printf "%q " "$@"; echo; }} >>{shlex.quote(str(log))}\n')
    stub.chmod(0o755)

    def calls(recipe: str, *overrides: str, **environment: str) -> Calls:
        log.write_text("")
        environment = {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "TESTBED": str(pairs_dir),
            "DATA": str(pairs_dir / "safe_rlhf.jsonl"),
            "MODEL": str(pairs_dir / "model"),
            **environment,
        }
        script = ROOT / "recipes" / "preference" / f"{recipe}.sh"
        subprocess.run(["bash", script, *overrides], check=True, capture_output=True, env=environment, cwd=tmp_path)
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return calls


def checked(call: list[str]) -> PreferenceSettings | CaidSettings | Settings:
    """What a command does with its overrides before it starts anything."""
    command, *overrides = call
    overrides = [each for each in overrides if each != "--dry-run"]
    if command == "prefer":
        config = compose_config(overrides, command="prefer")
        settings = check_preference_config(config)
        prepare_data(config, settings)
        return settings
    if command == "caid":
        return read_caid_settings(compose_config(overrides, command="caid"))
    return check_config(compose_config(overrides))


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES])
def test_every_recipe_passes_the_checks_with_what_it_is_named_after(recipe: str, calls_of: CallsOf) -> None:
    calls = calls_of(recipe, "--dry-run", THRESHOLD="0.2", TARGET="0.6")

    assert calls
    assert all(call[0] in {"prefer", "caid", "train"} and call[-1] == "--dry-run" for call in calls)
    runs = [next(each for each in call if each.startswith("ctwa.run=")) for call in calls]
    assert len(set(runs)) == len(runs)
    assert all(run.startswith(f"ctwa.run=runs/preference-{recipe}") and run.endswith("-s0") for run in runs)
    settings = checked(calls[-1])  # those before differ in their weights alone
    if isinstance(settings, PreferenceSettings):
        assert (settings.method.type, settings.loss.type) == PREFERENCE_METHODS[recipe]
        assert (settings.modpo is not None) == (recipe == "modpo")
        assert (settings.early_stopping is not None) == (recipe in {"clamp", "pku_clamp"})
        separate = len({objective.data for objective in settings.objectives.values()}) == 2
        assert separate == (recipe == "pwg_modpo")
    elif isinstance(settings, CaidSettings):
        assert settings.caid.thresholds == {"accuracy": 0.2}
        assert settings.caid.iterations == {"caid": 4, "one_shot": 1, "pecaid": 4}[recipe]
        assert bool(settings.policies) == (recipe == "pecaid")
    elif recipe == "safe_rlhf":
        assert (settings.method.type, settings.method.targets) == ("lagrangian", {"accuracy": 0.6})
    else:
        assert (recipe, settings.method.type) == ("morlhf", "linear")


@pytest.mark.parametrize("recipe", ["raco_front", "clamp_front"])
def test_a_front_is_five_preferences_and_their_report(recipe: str, calls_of: CallsOf, pairs_dir: Path) -> None:
    *runs, report = calls_of(recipe, SEED="2")

    settings = [dict(each.split("=", 1) for each in run[1:]) for run in runs]
    assert [each["ctwa.objectives.accuracy.weight"] for each in settings] == [*SHARES]
    assert all(f"ctwa.reference_cache={pairs_dir}/pairs/reference" in run for run in runs)
    assert report[0] == "report"
    assert [*report[1:6]] == [f"runs/preference-{recipe}-p{share}-s2" for share in SHARES]


def test_soups_are_merged_from_a_run_for_each_objective_and_evaluated(calls_of: CallsOf) -> None:
    first, second, *merges, evaluation = calls_of("soups")

    for run, objective in ((first, "accuracy"), (second, "conciseness")):
        settings = checked(run)
        assert isinstance(settings, PreferenceSettings)
        assert {name: weight for name, weight in settings.weights.items() if weight} == {objective: 1}
    assert [merge[0] for merge in merges] == ["merge"] * 5
    assert merges[1][1:3] == ["runs/preference-soups-accuracy-s0=0.35", "runs/preference-soups-conciseness-s0=0.65"]
    assert evaluation[0] == "eval"
    assert all(merge[-1] in evaluation for merge in merges)


def test_pecaid_trains_the_policies_that_are_not_there_yet(calls_of: CallsOf, tmp_path: Path) -> None:
    done = tmp_path / "runs" / "preference-pecaid-accuracy-s0"
    done.mkdir(parents=True)
    (done / "summary.json").write_text("{}")
    prefer, caid = calls_of("pecaid")

    assert (prefer[0], caid[0]) == ("prefer", "caid")
    assert "ctwa.run=runs/preference-pecaid-conciseness-s0" in prefer
    (policies,) = [each for each in caid if each.startswith("ctwa.policies=")]
    for objective in ("accuracy", "conciseness"):
        assert f"{objective}:'runs/preference-pecaid-{objective}-s0'" in policies


@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["a run", "a dry run looks at them"])
def test_pairs_are_made_where_there_are_none(words: list[str], calls_of: CallsOf, tmp_path: Path) -> None:
    testbed = tmp_path / "testbed"
    testbed.mkdir()
    (testbed / "testbed.json").write_text(json.dumps({"settings": {"format": 1, "preset": "A"}}, indent=2))
    made, run = calls_of("raco", *words, TESTBED=str(testbed))

    assert made == ["testbed", "pairs", "--preset", "A", "--seed", "0", "--out", f"{testbed}/pairs"]
    assert run[0] == "prefer"


def test_the_users_settings_come_last_and_resume_is_asked_for(calls_of: CallsOf) -> None:
    (call,) = calls_of("raco", "a.b=c d", RESUME="1", SEED="3")

    assert call[-1] == "a.b=c d"
    assert {"ctwa.resume=true", "ctwa.seed=3", "ctwa.run=runs/preference-raco-s3"} <= set(call)
    assert "ctwa.resume=false" in calls_of("raco", RESUME="")[0]
    with pytest.raises(subprocess.CalledProcessError) as error:
        calls_of("raco", RESUME="true")
    assert error.value.stderr == b"error: RESUME=true is neither 0 nor 1: write 1 for yes, or 0.\n"
