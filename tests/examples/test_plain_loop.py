"""The loop in plain torch shows what its first lines say."""

from __future__ import annotations

from examples.plain_loop import main


def test_fixed_weights_give_an_objective_up_that_ctwa_and_upgrad_keep(capsys) -> None:
    curves = main()

    start, end = {name: curve[0, 1] for name, curve in curves.items()}, {n: c[-1, 1] for n, c in curves.items()}
    assert all(curve[-1, 0] > 0.9 for curve in curves.values())
    assert end["linear"] < 0.1 * start["linear"]
    assert end["ctwa"] > 2 * start["ctwa"]
    assert curves["upgrad"][:, 1].min() >= start["upgrad"] - 0.01
    assert len(capsys.readouterr().out.splitlines()) == 8
