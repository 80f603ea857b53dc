"""Several rewards beside each other: what they do to one another, and the targets that CTWA may have."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.check import check_reward
from ctwa.objectives.check_command import main
from ctwa.objectives.check_together import Conflict, together
from ctwa.objectives.responses import Response
from tests.objectives.checking import REWARDS, RewardFile, rows, run_main


def test_rewards_are_compared_within_prompts(reward_file: RewardFile) -> None:
    """Of each prompt right is long and wrong short: what one teaches, the other unteaches."""
    path = reward_file(REWARDS)
    responses = [["right and long", "wrong"], ["right and long", "no"]]
    results = {
        name: check_reward(f"{path}:{name}", rows(2), responses=responses) for name in ("right", "short", "constant")
    }
    found = together(results)
    assert found is not None
    assert found.rewards["right"].std == found.rewards["short"].std == 0.5
    assert (found.rewards["constant"].no_signal, found.rewards["right"].no_signal) == (1.0, 0.0)
    assert found.pairs["right", "short"] == Conflict(-1.0, 1.0)
    assert math.isnan(found.pairs["right", "constant"].conflicts)


def test_targets_can_be_met_together_with_room_to_spare(reward_file: RewardFile) -> None:
    """Of two independent rewards each can reach 0.5 / sqrt(2) at once; half of that is suggested."""
    path = reward_file(REWARDS)
    responses = [["right", "right and long", "wrong", "wrong and long"]] * 3
    found = together(
        {name: check_reward(f"{path}:{name}", rows(3), responses=responses) for name in ("right", "short")}
    )
    assert found is not None
    assert found.pairs["right", "short"].correlation == 0
    for each in found.rewards.values():
        assert each.expected == pytest.approx(0.5 / math.sqrt(2))
        assert each.target == pytest.approx(0.25 / math.sqrt(2), rel=1e-4)


def test_the_command_takes_several_rewards_and_the_responses_of_a_model(
    reward_file: RewardFile, data: Callable[..., Path]
) -> None:
    path = reward_file(
        REWARDS + "    def finished(finished, response_tokens): return response_tokens if finished else 0"
    )

    def sample(rows: Any) -> Any:
        return [[Response("right", 7), Response("wrong and long", 9, finished=False)]] * len(rows), "by a model"

    specs = [f"{path}:{name}" for name in ("right", "short", "finished")]
    status, text = run_main(specs, data(rows(2)), sample=sample)
    assert status == 0
    assert "by a model" in text
    assert "counts words" not in text
    assert re.search(r"│ response │ +4 │ +4 │ +3.5 │ +0 │ +7 │", text)  # of finished
    assert re.search(
        r"^\+\+ctwa.objectives.right.target=\S+ \+\+ctwa.objectives.short.target=\S+ \+\+ctwa\S+$", text, re.MULTILINE
    )
    with pytest.raises(CtwaError, match="--text and --model all give the responses; write one of them"):
        main(specs, data(rows(2)), sample=sample, texts=["a"])
    with pytest.raises(CtwaError, match="a reward function is given twice"):
        main([specs[0], specs[0].replace("/", "//")], data(rows(2)))


def test_a_reward_that_scores_nothing_hides_nothing_of_the_others(
    reward_file: RewardFile, data: Callable[..., Path]
) -> None:
    path = reward_file(REWARDS + "    def broken(response): raise ValueError")
    specs = [f"{path}:{name}" for name in ("right", "broken")]
    status, text = run_main(specs, data(rows(2)), texts=["right", "wrong"])

    assert status == 1
    assert text.splitlines()[-1] == "++ctwa.objectives.right.target=0.25"
    assert "within the completions" not in run_main(specs[1:], data(rows(2)), texts=["a", "b"])[1]


def test_arguments_of_several_functions_are_by_their_names(reward_file: RewardFile, data: Callable[..., Path]) -> None:
    path = reward_file("""
        def one(response, word="x"): return float(word in response)
        def two(response): return 0.0
    """)
    specs = [f"{path}:one", f"{path}:two"]
    status, text = run_main(specs, data(rows(1)), texts=["abc", "x"], kwargs={"one": {"word": "b"}})
    assert status == 0
    assert re.search(r"abc +│ [^│]*│ 1 ", text)
    with pytest.raises(
        CtwaError, match=r"kwargs of several functions are by their names \(one, two\), and 'word' is none"
    ):
        main(specs, data(rows(1)), kwargs={"word": "b"})


def test_probes_are_no_model_s_and_are_not_compared(reward_file: RewardFile, data: Callable[..., Path]) -> None:
    path = reward_file(REWARDS)
    assert "within the completions" not in run_main([f"{path}:right", f"{path}:short"], data(rows(2)))[1]
