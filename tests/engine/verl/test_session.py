"""Which prompts come next: whatever knows it, a run that is resumed gets those that it would have got."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

from ctwa.engine.verl.session import Session
from ctwa.errors import CtwaError
from ctwa.objectives.curriculum import CurriculumSettings


class Rows(list[dict[str, Any]]):
    """A data set like verl's."""

    @property
    def dataframe(self) -> datasets.Dataset:
        return datasets.Dataset.from_list(list(self))


def session(**curriculum: Any) -> Session:
    """One that has the data, and no engine."""
    made: Any = object.__new__(Session)
    made.config = OmegaConf.create(
        {"data": {"train_batch_size": 3, "seed": None, "shuffle": True}, "ctwa": {"seed": 7}}
    )
    made.train_dataset = Rows({"data_source": "abb"[row % 3], "row": row} for row in range(10))
    made.train_dataloader = StatefulDataLoader(
        made.train_dataset,
        batch_size=3,
        drop_last=True,
        collate_fn=collate_fn,
        sampler=create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 7}), made.train_dataset),
    )
    made._epoch = None
    settings = CurriculumSettings(**curriculum)
    made.curriculum = made._build_curriculum(settings) if settings.is_on else None
    return made  # type: ignore[no-any-return]


def rows_of(drawing: Session, num_steps: int) -> list[list[int]]:
    rows = []
    for _ in range(num_steps):
        if drawing.curriculum is not None:
            drawing.curriculum.begin_step()
        rows.append([int(row) for chunk in drawing.next_prompts() for row in chunk["row"]])
    return rows


@pytest.mark.parametrize("curriculum", [{}, {"sources": {"a": 1, "b": 2}}, {"difficulty": {"by": "accuracy"}}])
@pytest.mark.parametrize("made", [2, 3])  # steps: an epoch has three
def test_a_resumed_run_gets_the_prompts_that_come_next(tmp_path: Path, curriculum: dict[str, Any], made: int) -> None:
    whole = session(**curriculum)
    rows_of(whole, made)
    whole.save_place(tmp_path / "data.pt")
    resumed = session(**curriculum)
    assert resumed.curriculum is None or rows_of(resumed, 1)  # what it drew before does not matter
    resumed.load_place(tmp_path / "data.pt")
    assert rows_of(resumed, 5) == rows_of(whole, 5)


def test_a_place_in_the_data_is_not_taken_for_one_of_another_kind(tmp_path: Path) -> None:
    plain, drawn = session(), session(sources={"a": 1, "b": 2})
    plain.save_place(tmp_path / "plain.pt")
    drawn.save_place(tmp_path / "drawn.pt")
    with pytest.raises(CtwaError, match=r"not one of this ctwa\.curriculum"):
        drawn.load_place(tmp_path / "plain.pt")
    with pytest.raises(CtwaError, match=r"is of a run with a ctwa\.curriculum"):
        plain.load_place(tmp_path / "drawn.pt")
