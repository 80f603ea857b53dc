"""What the rewards are meant to say: run `pytest` before you train."""

import json
from pathlib import Path

import pytest
from rewards import correct, short

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (r"\boxed{ 7 }", 1.0),
        (r"3 + 4 = 7 so \boxed{7}", 1.0),
        (r"\boxed{8}", 0.0),
        (r"\boxed{7} no , \boxed{8}", 0.0),
        ("7", 0.0),
        ("", 0.0),
    ],
)
def test_correct_is_the_last_box(response: str, value: float) -> None:
    """A box that is corrected counts as it stands in the end."""
    assert correct(response, ground_truth="7") == value


def test_short_falls_with_the_length() -> None:
    """And is never below 0."""
    assert [short(0), short(20), short(40), short(80)] == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("name", ["train", "val"])
def test_every_row_has_an_answer_that_counts(name: str) -> None:
    """Else no response could have the reward."""
    for line in (DATA / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert correct(rf"\boxed{{{row['reward_model']['ground_truth']}}}", row["reward_model"]["ground_truth"]) == 1.0
