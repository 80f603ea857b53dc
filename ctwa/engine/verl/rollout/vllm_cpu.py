"""vLLM's worker on the CPU, serving the weights that it was sent last.

For speed vLLM's CPU layers repack their weights once, when the model is loaded, and drop the originals; the weights of
a policy in training change with every step. Here the layers compute with the parameters themselves. vLLM imports this
module in its worker process because the config names it (``engine_kwargs.vllm.worker_extension_cls``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import vllm.model_executor.layers.utils as vllm_layers
from torch.nn.functional import linear
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from ctwa.engine.verl.rollout.vllm_weights import Receiver
from ctwa.errors import CtwaError

_repack = vllm_layers.dispatch_cpu_unquantized_gemm


def compute_with_the_parameter(layer: Any, remove_weight: bool) -> None:
    """Stands in for vLLM's ``dispatch_cpu_unquantized_gemm``: a linear layer uses its parameter as it is."""
    if layer.weight.ndim > 2:  # convolutions are repacked in place, after each update anew
        _repack(layer, remove_weight)
    else:
        layer.cpu_linear = linear


def keep_weights_live() -> None:
    """Let the models that this process loads from now on follow updates of their weights."""
    vllm_layers.dispatch_cpu_unquantized_gemm = compute_with_the_parameter


def stale_layers(model: torch.nn.Module) -> Iterator[str]:
    """Names of the layers that compute with a copy of their weights, which no update would reach."""
    for name, layer in model.named_modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedLinearMethod | UnquantizedEmbeddingMethod):
            # A repacked layer is left with an empty weight, of one dimension.
            if layer.weight.ndim <= 2 and layer.cpu_linear is not linear:
                yield name
        elif method is not None:  # experts, and whatever is quantised, have layouts of their own
            yield name


class LiveWeights(Receiver):
    """Our part of the vLLM worker, which makes sure that an update reaches what generates."""

    def __new__(cls, **kwargs: Any) -> LiveWeights:
        """Comes before the worker loads its model."""
        keep_weights_live()
        return super().__new__(cls, **kwargs)

    def monkey_patch_model(self, *args: Any, **kwargs: Any) -> None:
        """The first call of verl once the model is loaded.

        Raises:
            CtwaError: a layer would not follow updates.
        """
        self._check_model()
        super().monkey_patch_model(*args, **kwargs)

    def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> None:
        """Take the weights that the trainer sends.

        Raises:
            CtwaError: a layer was repacked on the way.
        """
        super().update_weights_from_ipc(*args, **kwargs)
        self._check_model()

    def _check_model(self) -> None:
        if names := list(stale_layers(self.model_runner.model)):
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise CtwaError(
                f"vLLM on the CPU generates with copies of the weights of {len(names)} layers ({few}), which the "
                "trainer's updates do not reach: write generation=transformers"
            )
