"""The prompts: drawn from a seed, no topic in both parts, every constraint asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ctwa.errors import CtwaError
from ctwa.instructions.constraints import KINDS, compatible, from_json
from ctwa.instructions.prepare import Settings, prepare
from ctwa.instructions.prompts import MIXTURE, Prompt, draw_prompts
from ctwa.instructions.subjects import REQUESTS, TOPICS, topics


@pytest.fixture(scope="module")
def train() -> list[Prompt]:
    return draw_prompts(2000, 0, held_out=False)


@pytest.fixture(scope="module")
def held_out() -> list[Prompt]:
    return draw_prompts(300, 0, held_out=True)


def test_a_seed_gives_the_same_prompts_and_another_one_others(train: list[Prompt]) -> None:
    assert draw_prompts(50, 0, held_out=False) == train[:50]
    assert draw_prompts(50, 1, held_out=False) != train[:50]


def test_no_prompt_comes_twice_and_no_topic_is_in_both_parts(train: list[Prompt], held_out: list[Prompt]) -> None:
    texts = [prompt.text for prompt in (*train, *held_out)]

    assert len(set(texts)) == len(texts) == 2300
    assert len(set(TOPICS)) == len(TOPICS)
    assert set(topics(held_out=True)).isdisjoint(topics(held_out=False))
    requests = {request.format(topic=topic) for request in REQUESTS for topic in topics(held_out=True)}
    assert all(any(prompt.text.startswith(request) for request in requests) for prompt in held_out)
    assert not any(any(prompt.text.startswith(request) for request in requests) for prompt in train)


def test_every_kind_is_drawn_alone_and_in_company_and_no_excluded_pair(train: list[Prompt]) -> None:
    assert set(MIXTURE) == set(KINDS)
    drawn = Counter(each.kind for prompt in train for each in prompt.constraints)
    assert min(drawn.values()) > 30
    assert {len(prompt.constraints) for prompt in train} == {1, 2}
    pairs = {tuple(each.kind for each in prompt.constraints) for prompt in train if len(prompt.constraints) == 2}
    assert all(compatible(*pair) for pair in pairs)
    assert {kind for pair in pairs for kind in pair} == set(KINDS)


def test_a_prompt_asks_for_each_of_its_constraints(train: list[Prompt]) -> None:
    for prompt in train[:300]:
        for constraint in prompt.constraints:
            data = constraint.model_dump() | constraint.spoken()
            assert any(phrasing.format(**data) in prompt.text for phrasing in constraint.phrasings)


def test_the_files_carry_the_constraints_and_are_made_once(tmp_path: Path) -> None:
    out = tmp_path / "instructions"
    settings = Settings(num_train=20, num_held_out=10, num_validation=4)

    assert prepare(out, settings)
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert not prepare(out, settings)
    assert prepare(tmp_path / "again", settings)

    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == written
    rows = pq.read_table(out / "train.parquet").to_pylist()
    drawn = draw_prompts(20, 0, held_out=False)
    assert [row["prompt"] for row in rows] == [[{"content": prompt.text, "role": "user"}] for prompt in drawn]
    assert [from_json(row["reward_model"]["ground_truth"]) for row in rows] == [each.constraints for each in drawn]
    held_out = pq.read_table(out / "held_out.parquet").to_pylist()
    assert len(held_out) == 10
    assert pq.read_table(out / "validation.parquet").to_pylist() == held_out[:4]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "instructions"
    prepare(out, Settings(num_train=5, num_held_out=5))
    before = (out / "train.parquet").read_bytes()

    with pytest.raises(CtwaError, match=r"seed is 0 there and 1 here"):
        prepare(out, Settings(seed=1, num_train=5, num_held_out=5))
    assert (out / "train.parquet").read_bytes() == before

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.parquet").write_bytes(b"mine")
    with pytest.raises(CtwaError, match="files of another task"):
        prepare(tmp_path / "mine", Settings())
