"""Looks for completions of agent loops: as often as the transfer queue's one thread can bear."""

from __future__ import annotations

import pytest

from ctwa.engine.verl.rollout.agent_loops import AgentLoops


@pytest.mark.parametrize(
    ("looked", "pause"),
    [
        pytest.param(0.0, 0.02, id="the first"),
        pytest.param(0.001, 0.02, id="a hundred completions"),
        pytest.param(0.01, 0.1, id="a thousand: a tenth of the time is for looks"),
        pytest.param(0.08, 0.5, id="thousands: no longer than the setting says"),
    ],
)
def test_what_a_look_takes_says_when_the_next_one_is_due(looked: float, pause: float) -> None:
    loops = AgentLoops(manager=None, tokens=None, poll_interval=0.5)  # type: ignore[arg-type]

    assert loops._pause(looked) == pytest.approx(pause)


def test_a_shorter_setting_is_kept() -> None:
    loops = AgentLoops(manager=None, tokens=None, poll_interval=0.005)  # type: ignore[arg-type]

    assert loops._pause(1.0) == 0.005
