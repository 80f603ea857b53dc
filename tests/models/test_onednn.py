"""oneDNN's linear layers say what torch's say, and so do their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ctwa.models.onednn import pack_weights, prefers_onednn, use_onednn


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24)])
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator, requires_grad=True)
    layer = nn.Sequential(nn.Linear(24, 10, bias=bias))
    found = []
    for change in (lambda _: None, use_onednn):
        change(layer)
        outputs = layer(inputs)
        wanted = [inputs, *layer.parameters()]
        found.append([outputs.detach(), *torch.autograd.grad(outputs.square().sum(), wanted)])

    for mine, torchs in zip(*reversed(found), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-5)


def test_frozen_weights_and_other_types_are_taken_too() -> None:
    layer = nn.Linear(24, 10).requires_grad_(False)
    expected = layer(torch.ones(2, 24))
    use_onednn(layer)

    torch.testing.assert_close(layer(torch.ones(2, 24)), expected)
    assert layer(torch.ones(0, 24)).shape == (0, 10)
    assert layer.double()(torch.ones(2, 24).double()).dtype == torch.float64


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
def test_packed_weights_say_the_same_and_can_be_packed_anew(bias: bool) -> None:
    embedding, layer, head = nn.Embedding(10, 24), nn.Linear(24, 24, bias=bias), nn.Linear(24, 10, bias=bias)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, layer, head)
    inputs = torch.arange(10).view(2, 5)
    with torch.inference_mode():
        for weight in (torch.eye(24), torch.randn(24, 24, generator=torch.Generator().manual_seed(0))):
            expected = head(nn.functional.linear(embedding(inputs), weight, layer.bias))
            layer.weight.data = weight
            pack_weights(model)

            torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)
            assert not layer.weight.numel()
            assert head.weight.numel()  # the embedding has it too


def test_intels_processors_keep_mkl(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("vendor_id : GenuineIntel\n")

    assert not prefers_onednn(cpuinfo)
    assert not prefers_onednn(tmp_path / "none")
