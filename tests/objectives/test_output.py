"""What reward functions print is handed on up to a bound, and the bound is said."""

from __future__ import annotations

import pytest

from ctwa.objectives.output import MOST, WINDOW, Output


def test_a_loop_that_prints_fills_no_disk_and_what_comes_later_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    output = Output(lambda: now)
    output.file.write(b"x" * (2 * MOST))  # returns when the thread has read all but the last 64 kB
    output.file.write(b"x" * (1 << 17))
    now = WINDOW + 1
    output.file.write(b"x" * (1 << 17) + b"a word")
    output.close()
    output.close()

    printed = capfd.readouterr().err
    assert MOST < printed.count("x") < 1.5 * MOST
    assert printed.count("the reward functions print more than 1 MB a minute: the rest of this minute is left out") == 1
    assert printed.endswith("a word")
