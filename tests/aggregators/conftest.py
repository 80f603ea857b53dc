import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ctwa.aggregators import Aggregator, AggregatorConfig, Solution, build_aggregator

LEARNING_RATE = 1e-6
NEEDED: dict[str, dict[str, Any]] = {"torchjd": {"weighting": "MGDA"}}
"""Options without a default, by method."""


@pytest.fixture(scope="session")
def goldens() -> dict:
    return json.loads((Path(__file__).parents[1] / "goldens" / "gradient_methods.json").read_text())


@pytest.fixture(scope="session")
def make() -> Callable[..., Aggregator]:
    """Builds a method by its name, for weights in order or by name: ``make("cagrad", [0.8, 0.2], c=0.5)``."""
    adapter: TypeAdapter = TypeAdapter(AggregatorConfig)

    def make(method: str, weights: int | list[float] | Mapping[str, float], **options: Any) -> Aggregator:
        if isinstance(weights, int):
            weights = [1.0] * weights
        if not isinstance(weights, Mapping):
            digits = len(str(len(weights) - 1))  # so that the alphabet counts as we do
            weights = {f"objective_{index:0{digits}}": weight for index, weight in enumerate(weights)}
        return build_aggregator(adapter.validate_python({"type": method, **NEEDED.get(method, {}), **options}), weights)

    return make


@pytest.fixture(scope="session")
def solve() -> Callable[..., Solution]:
    """Solves with losses of 1 and a learning rate, which the methods that need none ignore."""

    def solve(aggregator: Aggregator, gram_MM: Tensor, losses_M: Tensor | None = None) -> Solution:
        losses_M = torch.ones(len(gram_MM)) if losses_M is None else losses_M
        return aggregator.solve(gram_MM, losses_M=losses_M, learning_rate=LEARNING_RATE)

    return solve


@pytest.fixture(scope="session")
def random_gradients() -> Callable[..., Tensor]:
    """M random gradients as rows; ``decades`` spreads their norms, ``common`` is what they share."""

    def make(seed: int, num: int, *, dim: int | None = None, decades: float = 0.0, common: float = 0.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        dim = dim or num + 3
        gradients_MD = torch.randn(num, dim, dtype=torch.float64, generator=generator)
        gradients_MD += common * torch.randn(dim, dtype=torch.float64, generator=generator)
        return gradients_MD * 10 ** (decades * torch.rand(num, 1, dtype=torch.float64, generator=generator))

    return make


@pytest.fixture(scope="session")
def least_nonnegative() -> Callable[[Tensor, Tensor], Tensor]:
    """The exact minimiser of ``v' Q v / 2 + q' v`` over v >= 0, by trying every support: small problems only."""

    def least(quadratic_MM: Tensor, linear_M: Tensor) -> Tensor:
        best, best_value = torch.zeros_like(linear_M), 0.0
        for size in range(1, len(linear_M) + 1):
            for support in map(list, combinations(range(len(linear_M)), size)):
                solved = torch.linalg.lstsq(quadratic_MM[support][:, support], -linear_M[support, None]).solution[:, 0]
                value = float(solved @ linear_M[support]) / 2
                if (solved >= 0).all() and value < best_value:
                    best, best_value = torch.zeros_like(linear_M), value
                    best[support] = solved
        return best

    return least
