"""What the trainer refuses before it trains: a method, or settings of TRL, that would not do what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ctwa.arguments import check_kind
from ctwa.errors import CtwaError, told_together
from ctwa.gradients.settings import GradientSettings
from ctwa.integrations.trl.loss import why_unknown
from ctwa.method_info import Options
from ctwa.metrics import check_name
from ctwa.scalarizers.base import Scalarizer
from ctwa.scalarizers.registry import (
    METHODS,
    SCALARIZERS,
    MethodConfig,
    build_scalarizer,
    method_options,
)
from ctwa.strict import changes, refuse_idle, validated

PLAIN = ("NO", "MULTI_")
"""How accelerate's names of a training begin in which every process has the whole model."""


def read_method(method: str | Mapping[str, Any] | Options, targets: Mapping[str, float] | None) -> MethodConfig:
    """The method that a user wrote: its name, or its options with the name as ``type``, or those made already.

    Raises:
        CtwaError: it is none, an option is wrong, or it has nothing to do with targets.
    """
    check_kind("method", method, (str, Mapping, Options), "a name, or {'type': NAME, 'OPTION': VALUE, ...}")
    options = {"type": method} if isinstance(method, str) else {str(key): value for key, value in dict(method).items()}
    name = str(options.pop("type", ""))
    steers = name in SCALARIZERS and SCALARIZERS[name].takes_targets
    if "targets" in options and steers:
        raise CtwaError("a covariance target is no option of a method: give the trainer targets={'NAME': 0.1, ...}")
    if targets is not None and name in METHODS and not steers:
        own = f"; its own are an option: method={{'type': '{name}', 'targets': {{...}}, ...}}"
        has_own = "targets" in METHODS[name].info.config.model_fields
        raise CtwaError(f"method '{name}' steers by no covariance targets: leave targets out{own if has_own else ''}")
    return method_options(name, **options)


def read_gradients(gradients: Mapping[str, Any] | None) -> GradientSettings:
    """How a user wants the objectives' gradients taken.

    Raises:
        CtwaError: an option is wrong, or one that `ctwa train` alone has.
    """
    settings: GradientSettings = validated(GradientSettings, dict(gradients or {}), under="gradients")
    for name in sorted(changes(settings).keys() - {"gram", "half_life", "refresh_every"}):
        raise CtwaError(f"gradients.{name} is for `ctwa train`: in TRL write gram, half_life and refresh_every alone")
    return settings


def check_gradients(settings: GradientSettings, scalarizer: Scalarizer, args: Any, distributed: str) -> None:
    """Refuse a training in which the objectives' gradients cannot be taken one by one from one forward pass.

    Args:
        settings: how they are to be taken.
        scalarizer: the method.
        args: a ``GRPOConfig``.
        distributed: accelerate's name of how processes share the training.

    Raises:
        CtwaError: what it is of TRL's settings, and what to write; or gradients that nobody takes.
    """
    name, aggregator = scalarizer.config.type, scalarizer.aggregator
    if aggregator is None:
        refuse_idle(settings, dict.fromkeys(type(settings).model_fields, f"method '{name}'"), "gradients")
        return
    if settings.gram == "plain":
        refuse_idle(aggregator.config, dict.fromkeys(aggregator.of_errors, "gradients={'gram': 'plain'}"), "method")
    elif args.generation_batch_size < 2 * args.num_generations:
        raise CtwaError(
            "gradients.gram=cross_fitted halves the prompts of a batch, and with generation_batch_size="
            f"{args.generation_batch_size} and num_generations={args.num_generations} it has one: write a "
            "larger batch, of 8 prompts or more, or gram='plain'"
        )
    optim = _word(args.optim)
    mistakes = [
        f"method '{name}' combines the gradients of the objectives, and {reason}"
        for reason, holds in {
            f"{distributed} keeps each process's part of one: train in one process or with DDP, or with `ctwa train`": (
                not distributed.startswith(PLAIN)
            ),
            "parallelism_config splits the model or its sequences: leave it out": bool(
                getattr(args, "parallelism_config", None)
            ),
            "fp16 scales the loss until they overflow: write bf16=True": args.fp16,
            "use_liger_kernel writes them where the next one's are computed from: leave it out": getattr(
                args, "use_liger_kernel", False
            ),
            "torch_compile frees what the next one is computed from: leave it out": args.torch_compile,
            f"optim='{optim}' makes its steps in the middle of one: write another": "lomo" in optim
            or "layerwise" in optim,
        }.items()
        if holds
    ]
    if mistakes:
        raise told_together(mistakes, "" if len(mistakes) == 1 else "the training")


def build_method(
    config: MethodConfig,
    names: Sequence[str],
    weights: Sequence[float],
    targets: Mapping[str, float] | None,
    args: Any,
) -> Scalarizer:
    """The method on the objectives that the reward functions are.

    Args:
        config: its options.
        names: of the reward functions, in their order.
        weights: theirs.
        targets: the covariance targets, by name.
        args: a ``GRPOConfig``.

    Raises:
        CtwaError: names that no metric can have, targets that do not fit, or what would not do here what it says.
    """
    _check_names(names)
    scale_invariant = args.scale_rewards != "none"
    by_name = dict(zip(names, weights, strict=True))
    scalarizer = build_scalarizer(config, by_name, scale_invariant=scale_invariant, targets=targets)
    mistakes = [*_of_method(scalarizer, args), *_of_batches(args)]
    if mistakes:
        raise told_together(mistakes, "" if len(mistakes) == 1 else "the training")
    return scalarizer


def check_weights_are_kept(weights_M: Tensor, left_M: Tensor, method: str) -> None:
    """Refuse weights that something else than the method has changed.

    Args:
        weights_M: TRL's ``reward_weights`` as they are.
        left_M: as the trainer left them.
        method: which chooses them.

    Raises:
        CtwaError: they differ.
    """
    if not torch.equal(weights_M, left_M):
        raise CtwaError(
            f"trainer.reward_weights was set to {weights_M.tolist()} during the training, and the weights are those of "
            f"method '{method}': leave them alone; method='schedule' has weights that change with the step"
        )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        check_name(name)
        if names.count(name) > 1 or name == "<lambda>":
            raise CtwaError(
                f"a reward function is called {name!r}, and an objective goes by its function's name: "
                "write a function with a name of its own (def NAME)"
            )


def _of_method(scalarizer: Scalarizer, args: Any) -> Iterable[str]:
    name, needs = scalarizer.config.type, scalarizer.requirements
    if needs.probe != "none":
        yield (
            f"method '{name}' measures what each step did to the rewards, which needs passes that TRL does not make: "
            f"choose another method, or train with `ctwa train method={name}`"
        )
    if needs.validation and _word(args.eval_strategy) == "no":
        yield (
            f"method '{name}' goes by the rewards on held-out prompts, and eval_strategy is 'no': write "
            "eval_strategy='steps' with an eval_dataset"
        )
    if needs.token_weights and (reason := why_unknown(args)):
        yield f"method '{name}' asks how the loss weighs a token, and {reason}: choose another loss, or another method"
    if args.multi_objective_aggregation != "sum_then_normalize":
        yield (
            f"multi_objective_aggregation is '{args.multi_objective_aggregation}', and how rewards become advantages "
            "is the method's: leave it out, and write method='gdpo' for what TRL calls normalize_then_sum"
        )


def _of_batches(args: Any) -> Iterable[str]:
    made, used = args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps
    if made % used:
        yield (
            f"completions are used for steps_per_generation * num_iterations = {made} micro-batches, which "
            f"gradient_accumulation_steps={used} does not divide: a method could not tell what one batch's update did; "
            "write steps_per_generation as a multiple of gradient_accumulation_steps"
        )
        return
    steps = made // used
    if _word(args.save_strategy) == "steps" and steps > 1 and (args.save_steps < 1 or args.save_steps % steps):
        yield (
            f"save_steps is {args.save_steps:g}, and a batch of completions is trained on for {steps} steps: TRL "
            f"cannot go on from the middle of one; write a multiple of {steps}"
        )


def _word(strategy: Any) -> str:
    """``steps``, ``epoch`` or ``no``: a member of an enumeration of transformers, or its value."""
    return str(getattr(strategy, "value", strategy))
