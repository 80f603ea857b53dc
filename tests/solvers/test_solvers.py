"""Answers of outside solvers are held against their own conditions; what misses them is solved again, and counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
import torch
from scipy.optimize import OptimizeResult
from scipy.sparse import csr_array

from ctwa.solvers import volumes
from ctwa.solvers.fallbacks import count_fallbacks, note_fallback
from ctwa.solvers.least_squares import kkt_violation, nonnegative_least_squares
from ctwa.solvers.programmes import linear_programme
from ctwa.solvers.volumes import dominated_volume, not_dominated


def problem(seed: int, num: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix_DM = torch.randn(dim, num, dtype=torch.float64, generator=generator)
    return matrix_DM, torch.randn(dim, dtype=torch.float64, generator=generator)


def violation(matrix_DM, target_D, solution_M):
    known = matrix_DM.norm(dim=0) > 0
    length_S, length = matrix_DM[:, known].norm(dim=0), target_D.norm()
    point_CS = (solution_M[known] * length_S / length)[None]
    return float(kkt_violation(matrix_DM[:, known] / length_S, target_D / length, point_CS))


@pytest.mark.parametrize("num", [1, 3, 7])
@pytest.mark.parametrize("dim", [1, 4, 9])
def test_columns_of_zeros_change_nothing(num, dim):
    for seed in range(10):
        matrix_DM, target_D = problem(seed, num, dim)
        matrix_DM[:, :: 1 + seed % 3] = 0
        kept = matrix_DM.norm(dim=0) > 0
        with count_fallbacks() as fallbacks:
            solution_M = nonnegative_least_squares(matrix_DM, target_D)
        assert fallbacks.num == 0
        assert (solution_M[~kept] == 0).all()
        assert torch.equal(solution_M[kept], nonnegative_least_squares(matrix_DM[:, kept], target_D))
        assert not kept.any() or violation(matrix_DM, target_D, solution_M) < 1e-12


@pytest.mark.parametrize("num", [2, 5, 9])
def test_a_wrong_answer_is_not_believed(monkeypatch, num):
    """Whatever the solver says, or if it stops: the problem is solved on every support, to rounding."""
    answers = {
        "zeros": lambda matrix, _: (np.zeros(matrix.shape[1]), 0.0),
        "nearly": lambda matrix, target: (solved(matrix, target)[0] * (1 + 1e-9), 0.0),
        "not a number": lambda matrix, _: (np.full(matrix.shape[1], math.nan), 0.0),
        "no answer": stopped,
    }
    solved = scipy.optimize.nnls
    for seed in range(4):
        matrix_DM, target_D = problem(seed, num, num + 2)
        target_D += matrix_DM.sum(1)  # so that the answer is not 0
        right_M = nonnegative_least_squares(matrix_DM, target_D)
        for answer in answers.values():
            monkeypatch.setattr(scipy.optimize, "nnls", answer)
            with count_fallbacks() as outer, count_fallbacks() as inner:
                solution_M = nonnegative_least_squares(matrix_DM, target_D)
            monkeypatch.setattr(scipy.optimize, "nnls", solved)
            assert (outer.num, inner.num) == (1, 1)
            torch.testing.assert_close(solution_M, right_M, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_have_no_solution(value):
    with pytest.raises(ValueError, match="not finite"):
        nonnegative_least_squares(torch.tensor([[value, 1.0]]).double(), torch.ones(1).double())


def stopped(*_):
    raise RuntimeError("Maximum number of iterations reached.")


def test_too_many_columns_to_try_every_support_are_solved_by_another_solver(monkeypatch, caplog):
    matrix_DM, target_D = problem(0, 20, 24)
    right_M = nonnegative_least_squares(matrix_DM, target_D)
    monkeypatch.setattr(scipy.optimize, "nnls", stopped)
    torch.testing.assert_close(nonnegative_least_squares(matrix_DM, target_D), right_M, rtol=1e-7, atol=1e-9)
    assert not caplog.records


def test_columns_that_rounding_tells_apart_depend_on_one_another():
    """The difference of two opposite columns is noise; an answer made of it would be as large as its inverse."""
    noise = 1e-9
    matrix_DM = torch.tensor([[1.0, -1.0], [0.0, noise]], dtype=torch.float64)
    target_D = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert nonnegative_least_squares(matrix_DM, target_D).sum() > 1e8
    assert nonnegative_least_squares(matrix_DM, target_D, resolution=1e-7).sum() < 1


def test_nothing_is_counted_outside():
    with count_fallbacks() as before:
        pass
    note_fallback()
    assert before.num == 0


# The least x_0 + 2 x_1 with x_0 >= 1 - x_1 and x_1 <= 3: at x = (1, 0).
PROGRAMME = (np.array([1.0, 2.0]), csr_array(np.array([[-1.0, -1.0], [0.0, 1.0]])), np.array([-1.0, 3.0]))


def test_a_linear_programme():
    with count_fallbacks() as fallbacks:
        assert linear_programme(*PROGRAMME, num_free=1) == pytest.approx(1)
        assert linear_programme(np.array([-1.0, 0.0]), *PROGRAMME[1:], num_free=1) == -math.inf
    assert fallbacks.num == 0


def test_a_linear_programme_s_answer_has_to_agree_with_its_dual(monkeypatch):
    def wrong(method, solved=scipy.optimize.linprog):
        def answer(*arguments, **options):
            result = solved(*arguments, **options)
            return OptimizeResult(result, fun=9.0, x=result.x + 8) if options["method"] in method else result

        return answer

    monkeypatch.setattr(scipy.optimize, "linprog", wrong(["highs"]))
    with count_fallbacks() as fallbacks:
        assert linear_programme(*PROGRAMME, num_free=1) == pytest.approx(1)
    assert fallbacks.num == 1
    monkeypatch.setattr(scipy.optimize, "linprog", wrong(["highs", "highs-ipm", "highs-ds"]))
    assert linear_programme(*PROGRAMME, num_free=1) is None


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
def test_a_volume_outside_its_bounds_is_not_believed(monkeypatch, num_objectives):
    generator = np.random.default_rng(num_objectives)
    reference_M = np.full(num_objectives, 0.25)
    for _ in range(10):
        points_PM = generator.random((6, num_objectives)).round(1)
        volume = dominated_volume(points_PM, reference_M)
        with monkeypatch.context() as patched, count_fallbacks() as fallbacks:
            for wrong in (volume - 1, math.nan, 2.0):
                patched.setattr(volumes.moocore, "hypervolume", lambda *_, wrong=wrong, **__: wrong)
                assert dominated_volume(points_PM, reference_M) == pytest.approx(volume, rel=1e-12)
        assert fallbacks.num == (3 if volume else 0)


def test_points_that_another_dominates():
    points_PM = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.5], [0.0, 1.0]])
    assert not_dominated(points_PM).tolist() == [True, True, False, True]
