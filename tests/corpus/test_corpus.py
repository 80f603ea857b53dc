"""Bad inputs: each is answered by a sentence that says what is wrong, and never by a traceback of some library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from ctwa.data.files import open_rows
from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import parse_objectives
from ctwa.objectives.contract import read_contract
from ctwa.objectives.evaluator import RewardEvaluator
from ctwa.objectives.loading import load_function
from ctwa.run.documents import read_document
from ctwa.run.jsonl import read_jsonl
from ctwa.run.trace import Event, SampleRecord, iterate_trace
from tests.composing import files_parsed_once as files_parsed_once
from tests.corpus.corpus import FOLDER, Case, answer, cases, make
from tests.corpus.world import make_world
from tests.engine.conftest import a_hub_with_every_model as a_hub_with_every_model
from tests.engine.conftest import same_environment as same_environment

ROOT = FOLDER.parents[1]
FILES = ("traces", "checkpoints", "evaluations", "data", "naming", "others", "recipes")
COMMANDS = [case for name in FILES for case in cases(name)]
KEYS = st.sampled_from(["schema", "step", "time", "metrics", "kind", "text", "prompt", "split", "rewards", "response"])
READERS: dict[str, Callable[[Path], object]] = {
    "records": lambda path: list(iterate_trace(path)),
    "events": lambda path: read_jsonl(path, Event),
    "samples": lambda path: read_jsonl(path, SampleRecord),
    "document": lambda path: read_document(path, "give another"),
    "rows": lambda path: list(open_rows(path).rows()),
}
"""What reads a file that was written before, or by a user."""
REWARDS = yaml.safe_load((FOLDER / "rewards.yaml").read_text())


@pytest.fixture(scope="module", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Typer makes all commands anew for each that is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", cache(get_command))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    make_world(place)
    return place


@pytest.mark.parametrize("case", COMMANDS, ids=[case.id for case in COMMANDS])
def test_a_command_says_what_is_wrong(
    case: Case, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, case, world)
    monkeypatch.chdir(tmp_path)
    found = answer(case.command, monkeypatch, capfd)

    told = (found.out + found.err).replace(f"{tmp_path}/", "").replace(f"{ROOT}/", "")
    assert found.traceback == ""
    assert "Traceback" not in told
    assert "\x1b" not in told  # what a file holds moves no cursor
    assert case.says in told
    assert found.code == case.code
    if case.code == 2:
        assert found.err.lstrip().startswith(("error: ", "Usage: "))


def write(place: Path, name: str, content: str | dict[str, str]) -> str:
    """A file of reward functions; returns the name of its f."""
    path = place / f"{name}.py"
    path.write_bytes(content.encode() if isinstance(content, str) else bytes.fromhex(content["hex"]))
    return f"{path}:f"


@pytest.mark.parametrize("case", REWARDS["imports"], ids=[str(each["file"])[:40] for each in REWARDS["imports"]])
def test_a_reward_function_that_cannot_be_used_says_why(case: dict[str, str], tmp_path: Path) -> None:
    spec = write(tmp_path, "reward", case["file"])
    with pytest.raises(CtwaError) as told:
        read_contract(load_function(spec), spec, {})

    assert case["says"] in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_a_reward_function_that_fails_is_counted_under_its_reason(tmp_path: Path) -> None:
    wrong = {f"o{number}": each for number, each in enumerate(REWARDS["returns"])}
    objectives = parse_objectives({name: {"reward_fn": write(tmp_path, name, wrong[name]["file"])} for name in wrong})
    row = {"prompt": [{"role": "user", "content": "1 + 1 ?"}], "reward_model": {"ground_truth": "2"}}
    rows = [Completion.from_row(row, response=text, response_tokens=1) for text in ("2", "3")]
    with RewardEvaluator(objectives, num_workers=1, max_unscored=1.0) as evaluator:
        found = evaluator.evaluate(rows, [0, 0])

    told = {(each.objective, each.row): each for each in found.failures}
    for name, each in wrong.items():
        for row in range(2):
            assert told[name, row].reason == each["reason"], each["file"]
            assert each["says"] in told[name, row].text, each["file"]
    assert not found.matrix.scored_NM.any()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_whatever_a_file_of_ours_holds_it_is_read_or_refused_in_a_sentence(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "file.jsonl"

    @given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode() + b"\n"))
    def holds(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(CtwaError):
            read(path)

    holds()
