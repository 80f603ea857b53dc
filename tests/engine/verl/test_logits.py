"""Log-probabilities and entropies by chunks: verl's values, autograd's gradients, as often as they are wanted."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional
from verl.workers.engine import FSDPEngineWithLMHead

from ctwa.engine.verl import logits
from ctwa.engine.verl.logits import entropies, log_probs_of_labels
from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine

VOCABULARY = 37
CHUNKS = [1, 3 * VOCABULARY, 1 << 24]
"""Numbers of a chunk: less than a row, three rows, more than there are."""


@pytest.fixture(params=CHUNKS)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "CHUNK_NUMBERS", request.param)


def some_logits(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, 5, VOCABULARY, generator=generator)).to(dtype).requires_grad_()


LABELS = torch.arange(10).view(2, 5) * 3
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "log-probabilities": lambda logits: log_probs_of_labels(logits, LABELS),
    "entropies": entropies,
}
WEIGHTS = torch.linspace(-1, 2, 10).view(2, 5)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_are_those_of_differences(function: str) -> None:
    assert torch.autograd.gradcheck(FUNCTIONS[function], some_logits(torch.float64))


@pytest.mark.usefixtures("chunk")
def test_log_probs_and_their_gradients_are_those_of_autograd_to_the_bit() -> None:
    found, expected = some_logits(), some_logits()
    log_probs = log_probs_of_labels(found, LABELS)
    plain = expected.gather(2, LABELS[..., None]).squeeze(2) - expected.logsumexp(2)

    assert torch.equal(log_probs, plain)
    (log_probs * WEIGHTS).sum().backward()
    (plain * WEIGHTS).sum().backward()
    assert torch.equal(found.grad, expected.grad)  # type: ignore[arg-type]


@pytest.mark.usefixtures("chunk")
def test_entropies_are_verls_to_the_bit_and_their_gradients_but_for_rounding() -> None:
    found, expected = some_logits(), some_logits()
    ours, verls = entropies(found), torch_functional.entropy_from_logits(expected)

    assert torch.equal(ours, verls)
    (ours * WEIGHTS).sum().backward()
    (verls * WEIGHTS).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_of_bf16_they_are_computed_in_float32_and_only_the_gradient_is_rounded(function: str) -> None:
    narrow = some_logits(torch.bfloat16)
    wide = narrow.detach().float().requires_grad_()
    found, expected = FUNCTIONS[function](narrow), FUNCTIONS[function](wide)

    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    (found * WEIGHTS).sum().backward()
    (expected * WEIGHTS).sum().backward()
    assert torch.equal(narrow.grad, wide.grad.bfloat16())  # type: ignore[arg-type, union-attr]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_graph_stands_several_backward_passes(function: str) -> None:
    """Each objective's loss goes backward through it; none finds what another has left."""
    given = some_logits()
    before, values = given.detach().clone(), FUNCTIONS[function](given)
    first, second, again = (
        torch.autograd.grad((values * weights).sum(), given, retain_graph=True)[0]
        for weights in (WEIGHTS, 2 * WEIGHTS, WEIGHTS)
    )

    assert torch.equal(given, before)
    assert torch.equal(first, again)
    assert torch.equal(second, 2 * first)


@pytest.mark.usefixtures("chunk")
def test_of_no_rows_there_are_none() -> None:
    nothing = torch.zeros(0, VOCABULARY, requires_grad=True)
    found = log_probs_of_labels(nothing, torch.zeros(0, dtype=torch.int64)), entropies(nothing)
    assert [each.shape for each in found] == [(0,), (0,)]
    sum(each.sum() for each in found).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("compiles", [False, True])
def test_the_engine_makes_by_chunks_what_verl_has_no_kernel_for(
    compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FSDPEngineWithLMHead, "initialize", lambda _: None)
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", torch_functional.logprobs_from_logits_v2)
    verls = torch_functional.entropy_from_logits
    engine = object.__new__(MultiObjectiveEngine)
    engine.compute_entropy_from_logits = compiled = torch.compile(verls) if compiles else verls
    engine.initialize()

    assert torch_functional.logprobs_from_logits_v2 is log_probs_of_labels
    assert engine.compute_entropy_from_logits is (compiled if compiles else entropies)


@pytest.mark.parametrize("wants_entropy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7, torch.tensor([0.5, 1.0, 2.0])], ids=["1", "0.7", "each row's"])
def test_of_rows_with_padding_they_are_verls_to_the_bit(temperature: float | Tensor, wants_entropy: bool) -> None:
    """Which copies the logits without their padding first."""
    rows = [torch.arange(length) + length for length in (4, 7, 5)]
    positions = [torch.arange(len(row)) for row in rows]
    columns = {
        name: torch.nested.as_nested_tensor(each, layout=torch.jagged)
        for name, each in (("input_ids", rows), ("position_ids", positions))
    }
    data = TensorDict(columns, batch_size=len(rows))
    options = {"use_remove_padding": False, "calculate_entropy": wants_entropy}
    tu.assign_non_tensor(data, **options, **{} if isinstance(temperature, Tensor) else {"temperature": temperature})
    if isinstance(temperature, Tensor):
        data["temperature"] = temperature
    engine = object.__new__(MultiObjectiveEngine)
    engine.pad_to_length = False
    engine.engine_config = SimpleNamespace(entropy_checkpointing=False)
    _, output_args = engine.prepare_model_inputs(data)
    weights = torch.linspace(-1, 1, 16)
    found = []
    for kind in (FSDPEngineWithLMHead, MultiObjectiveEngine):
        generator = torch.Generator().manual_seed(0)
        logits_NTV = torch.randn(3, 7, VOCABULARY, generator=generator).requires_grad_()
        made = kind.prepare_model_outputs(engine, SimpleNamespace(logits=logits_NTV), output_args, data, None)
        gradient = torch.autograd.grad((made["log_probs"].values() * weights).sum(), logits_NTV)
        found.append([*(each.values() for each in made.values()), made["log_probs"].offsets(), *gradient])

    assert len(found[0]) == 3 + wants_entropy
    for expected, ours in zip(*found, strict=True):
        assert torch.equal(ours, expected)
