"""verl's FSDP engine, able to take the gradient of every objective at one policy. V is the vocabulary."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional
from verl.utils.device import get_device_id
from verl.utils.fsdp_utils import merged_lora_context, normalize_peft_param_name, offload_fsdp_model_to_cpu
from verl.utils.model import convert_weight_keys
from verl.workers.engine import FSDPEngineWithLMHead
from verl.workers.engine.fsdp import transformer_impl

from ctwa.engine.objective_losses import OBJECTIVE_LOSSES
from ctwa.engine.optimizer_metric import knows_mean_squares, preconditioner
from ctwa.engine.replaced import replaced
from ctwa.engine.verl.halves import by_half, half_of, rows_in_halves
from ctwa.engine.verl.logits import entropies, log_probs_of_labels
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan, GradientRecord
from ctwa.gradients.store import GradientStore
from ctwa.models.adapter import misplaced, scale_of


class MultiObjectiveEngine(FSDPEngineWithLMHead):
    """verl's engine; with a plan, an update measures the objectives' gradients and descends along their combination.

    Clipping, optimizer and scheduler are verl's: they find the combined gradient where they look for the usual one.

    Attributes:
        plan: what to do with the objectives' gradients; None for verl's own update.
        num_left_out: updates that were not made since somebody set it to 0: their gradient was not finite.
    """

    plan: GradientPlan | None = None
    num_left_out: int = 0
    compute_entropy_from_logits: Callable[..., Tensor]
    _store: GradientStore | None = None
    _part: int | None = None
    _has_shared: bool = False
    _combined: Tensor | None = None
    _trained_names: list[str]

    @property
    def collects(self) -> bool:
        """Whether the loss function is to return each objective's loss, as ``OBJECTIVE_LOSSES`` among its metrics."""
        return self._store is not None or self._combined is not None

    def initialize(self) -> None:
        """Build the model. What verl has neither a kernel nor a compiled function for is made by chunks."""
        torch_functional.logprobs_from_logits_v2 = log_probs_of_labels  # where flash-attention's cross entropy is not
        super().initialize()
        if self.compute_entropy_from_logits is torch_functional.entropy_from_logits:
            self.compute_entropy_from_logits = entropies

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable, forward_only: bool = False
    ) -> list[TensorDict]:
        """Go over the micro-batches of a mini-batch as verl does; see the class."""
        plan = self.plan
        if forward_only or plan is None:
            return super().forward_backward_batch(data, loss_function, forward_only)
        if not plan.measures or self._lacks_metric(plan):
            held_M = plan.hold()
            if held_M is None:
                return super().forward_backward_batch(data, loss_function)
            return self._descend(data, loss_function, held_M)

        num_objectives, num_measured = len(plan.names), len(plan.measured_names) * plan.num_halves
        num_rows = [len(data)]
        if plan.half_N is not None:
            num_rows = rows_in_halves(data, plan.half_N, self.get_data_parallel_group())
        self._store = store = GradientStore(self.trained(), num_measured + (plan.aggregator is not None))
        with self._last_layers(plan.settings.last_layers) as in_last_layers:
            outputs = self._collect(data, loss_function, plan)
        in_metric = plan.settings.metric == "optimizer"
        metric = partial(preconditioner, self.optimizer) if in_metric else None
        plain_RR = plan.observe(store.gram(num_measured, in_last_layers, metric), num_rows)
        gram_MM = plain_RR[:num_objectives, :num_objectives]
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if plan.aggregator is None:
            plan.records.append(GradientRecord(gram_MM, None, False, plan.progress(plain_RR, None, learning_rate)))
            weights_M = torch.zeros(num_objectives)
        else:
            is_asked = plan.losses_M is None and plan.aggregator.needs_losses
            solution = plan.weigh(gram_MM, store.losses(num_objectives) if is_asked else None, learning_rate)
            weights_M = solution.weights_M
            if solution.skipped:  # without a gradient the optimizer does not move
                self.num_left_out += 1
                return outputs
        if plan.settings.last_layers is not None:
            del store
            return self._descend(data, loss_function, weights_M)
        if plan.aggregator is None:
            store.combine([*weights_M.tolist(), 1.0] * plan.num_halves)
        else:
            store.combine([*weights_M.tolist() * plan.num_halves, 1.0])
        return outputs

    def optimizer_step(self) -> float:
        """Take the step as verl does, which leaves it out where its gradient is not finite: the method forgets it."""
        norm: float = super().optimizer_step()
        if not math.isfinite(norm):
            self.num_left_out += 1
            if self.plan is not None:
                self.plan.leave_out()
        return norm

    def _lacks_metric(self, plan: GradientPlan) -> bool:
        return plan.settings.metric == "optimizer" and not knows_mean_squares(self.optimizer)

    def _collect(self, data: TensorDict, loss_function: Callable, plan: GradientPlan) -> list[TensorDict]:
        """Go over the micro-batches, and take each objective's gradient into the store: of each half, where wanted."""
        outputs: list[TensorDict] = []
        try:
            with nullcontext() if plan.half_N is None else by_half(plan.half_N):
                if plan.settings.passes == "shared_forward":
                    return super().forward_backward_batch(data, loss_function)
                for self._part in range(len(plan.names)):
                    outputs = super().forward_backward_batch(data.clone(recurse=False), loss_function)
                if self._has_shared:
                    self._part = len(plan.names)
                    super().forward_backward_batch(data.clone(recurse=False), loss_function)
            return outputs
        finally:
            self._store = self._part = None

    def _descend(self, data: TensorDict, loss_function: Callable, weights_M: Tensor) -> list[TensorDict]:
        """One pass with the weighted sum of the objectives' losses."""
        self._combined = weights_M
        try:
            return super().forward_backward_batch(data, loss_function)
        finally:
            self._combined = None

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Any]:
        """Make of the logits what verl does, in a graph that as many backward passes can go through as are to come."""
        several = self._store is not None and self._part is None
        with _logits_kept() if several else nullcontext():
            if _is_padded(micro_batch) and not isinstance(output.logits, DTensor):
                return _of_padded_rows(output.logits, output_args, micro_batch)
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)

    def forward_step(self, micro_batch: TensorDict, loss_function: Callable, forward_only: bool) -> Any:
        """Go forward as verl does; where gradients are collected, the loss goes backward once for each objective."""
        loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        found = output["metrics"].pop(OBJECTIVE_LOSSES, None)
        if forward_only or not self.collects:
            return loss, output
        losses, shared = found
        self._has_shared = shared is not None
        if self._combined is not None:
            total = sum(
                weight * each for weight, each in zip(self._combined.tolist(), losses, strict=True) if each is not None
            )
            return total if shared is None else total + shared, output
        assert self._store is not None
        if self._part in (None, 0):  # pass after pass, the losses are the same
            self._store.add_losses(losses)
        assert self.plan is not None
        num_measured = len(self.plan.measured_names)
        places = [half_of(micro_batch) * num_measured + row for row in range(num_measured)]
        if self.plan.aggregator is not None:  # what objectives share is not measured, and needs no halves
            places.append(num_measured * self.plan.num_halves)
        return _Backward(self._store, [*losses, shared], places, self._part), output

    @contextmanager
    def _gradient_sync_context(self, *, is_last_micro_batch: bool) -> Iterator[None]:
        # verl keeps the gradients of all but the last micro-batch unsharded; here they would be of all objectives.
        with (
            nullcontext()
            if self._store is not None
            else super()._gradient_sync_context(is_last_micro_batch=is_last_micro_batch)
        ):
            yield

    def _build_lora_module(self, module: nn.Module) -> nn.Module:
        # peft draws an adapter's first weights from the global generator, whose state here depends on the ranks.
        with torch.random.fork_rng():
            torch.manual_seed(self.engine_config.seed)
            adapted = super()._build_lora_module(module)
        # Checked before, unless the model or the adapter had yet to be downloaded.
        scale_of(adapted)
        if places := misplaced(adapted):
            raise CtwaError(
                f"the adapter trains {', '.join(places[:3])}, which a saved model would not have as trained: write "
                "actor_rollout_ref.model.target_modules with other layers, or begin with another adapter"
            )
        return adapted

    def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, Tensor]]:
        """The weights with the adapter in them, for the rollout: verl's, which rounds each to bf16, in their own type.

        Rounded, the rollout would sample from another policy than the one that is trained; and so it would if the
        layers outside the blocks were left out, as verl leaves those that FSDP2 has wrapped with the whole alone.
        """
        self.reshard()
        try:
            with merged_lora_context(self.module, backup_adapters=True):
                with torch.no_grad():
                    for layer in self.module.modules():
                        if isinstance(layer, LoraLayer) and not layer.merged:
                            layer.merge()
                named = convert_weight_keys(normalize_peft_param_name(self.module.state_dict()), self.module)
                for name, parameter in named.items():
                    is_sharded = isinstance(parameter, DTensor)
                    whole: Tensor = parameter.to(get_device_id()).full_tensor() if is_sharded else parameter
                    # On one rank the whole is the parameter itself, and the adapter is taken out of that again.
                    yield name, whole.detach().clone()
        finally:
            if self._is_offload_param:
                offload_fsdp_model_to_cpu(self.module)

    def _build_optimizer(self, module: nn.Module) -> Optimizer:
        optimizer = super()._build_optimizer(module)
        # Asked for now: where a pass without gradients leaves the weights gathered, the module names those instead.
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._trained_names = [names[id(parameter)] for parameter in _trained(optimizer)]
        return optimizer

    def trained(self) -> list[nn.Parameter]:
        """What the optimizer moves: this rank's shards. With an adapter verl hands it the frozen weights too."""
        return _trained(self.optimizer)

    def trained_by_name(self) -> dict[str, nn.Parameter]:
        """The same, by the names that they have in the model."""
        return dict(zip(self._trained_names, self.trained(), strict=True))

    def reshard(self) -> None:
        """Let all weights be gathered anew from their shards: a pass without gradients may have left them gathered."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # its own, not those of the modules in it

    @contextmanager
    def _last_layers(self, num_layers: int | None) -> Iterator[Callable[[int], bool]]:
        """Cut the graph below the last transformer blocks; say which of the trained parameters are in them."""
        if num_layers is None:
            yield lambda _: True
            return
        block_of = [_block(name) for name in self._trained_names]
        num_blocks = 1 + max(block for block in block_of if block is not None)
        first = max(num_blocks - num_layers, 0)
        block = next(m for name, m in self.module.named_modules() if re.search(rf"\.layers\.{first}$", name))
        handle = block.register_forward_pre_hook(_cut, with_kwargs=True, prepend=True)
        try:
            yield lambda index: (block_of[index] or 0) >= first and block_of[index] is not None
        finally:
            handle.remove()


def _is_padded(micro_batch: TensorDict) -> bool:
    """Whether verl pads the rows, and makes of their logits log-probabilities and entropies alone."""
    others = ("use_fused_kernels", "calculate_sum_pi_squared", "distillation_use_topk", "distillation_only")
    is_packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
    return not is_packed and not any(
        tu.get_non_tensor_data(data=micro_batch, key=each, default=False) for each in others
    )


def _of_padded_rows(logits_NTV: Tensor, output_args: dict[str, Any], micro_batch: TensorDict) -> dict[str, Tensor]:
    """What verl makes of the logits of rows with padding, without copying them.

    verl copies them without their padding first: a buffer of their size in the forward pass, and two more where
    autograd goes back through the copy.

    Args:
        logits_NTV: of N rows that are padded at the end.
        output_args: of verl's ``prepare_model_inputs``.
        micro_batch: the rows; ``calculate_entropy`` says whether entropies are wanted.

    Returns:
        ``log_probs`` of each token's next, nested as the rows are; ``entropy`` likewise.
    """
    input_ids = micro_batch["input_ids"]
    logits_NTV = transformer_impl._scale_logits_by_temperature(
        logits_NTV,
        output_args["temperature"][:, None, None],
        is_unit_temperature=output_args.get("temperature_is_one", False),
    )
    is_token_NT = torch.arange(logits_NTV.shape[1], device=logits_NTV.device) < input_ids.offsets().diff()[:, None]
    next_NT = torch.zeros_like(is_token_NT, dtype=torch.int64)
    next_NT = next_NT.masked_scatter(is_token_NT, output_args["input_ids_rmpad_rolled"])
    wants_entropy = tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False)
    # In its place only where nothing else goes backward through the logits.
    values = {
        "log_probs": transformer_impl.logprobs_from_logits(logits_NTV, next_NT, inplace_backward=not wants_entropy)
    }
    if wants_entropy:
        values["entropy"] = entropies(logits_NTV)
    return {
        name: torch.nested.nested_tensor_from_jagged(each_NT[is_token_NT], input_ids.offsets())
        for name, each_NT in values.items()
    }


def _logits_kept() -> AbstractContextManager[None]:
    """Let log-probabilities that are computed meanwhile go backward without writing into the logits.

    verl asks flash-attention's cross entropy to put the logits' gradient in the place of the logits, which saves a
    buffer of their size. The kernel saved them for its backward pass, and writes where autograd does not see it: a
    second pass through the graph would take the first one's gradient for logits.
    """
    in_place = transformer_impl.logprobs_from_logits

    def out_of_place(logits: Tensor, labels: Tensor, inplace_backward: bool = False) -> Tensor:
        del inplace_backward  # what verl wishes
        return in_place(logits, labels, inplace_backward=False)

    return replaced(transformer_impl, "logprobs_from_logits", out_of_place)


class _Backward:
    """Stands where verl has a loss: its backward pass is one for each of several losses, to its place in the store."""

    def __init__(
        self, store: GradientStore, losses: Sequence[Tensor | None], places: Sequence[int], part: int | None
    ) -> None:
        self._store, self._losses, self._places, self._part = store, losses, places, part

    def backward(self) -> None:
        chosen = [
            (index, loss) for index, loss in enumerate(self._losses) if loss is not None and self._part in (None, index)
        ]
        for index, loss in chosen:
            self._store.backward(self._places[index], loss, retain_graph=index != chosen[-1][0])


def _trained(optimizer: Optimizer) -> list[nn.Parameter]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [parameter for parameter in parameters if parameter.requires_grad]


def _block(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _cut(_: nn.Module, arguments: tuple, options: dict) -> tuple[tuple, dict]:
    def cut(value: Any) -> Any:
        is_graph = isinstance(value, Tensor) and value.requires_grad
        return value.detach().requires_grad_() if is_graph else value

    return tuple(map(cut, arguments)), {key: cut(value) for key, value in options.items()}
