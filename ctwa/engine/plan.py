"""What a plan says of learning, and of the memory and the disk that it takes: lines of `--dry-run`."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from omegaconf import DictConfig

from ctwa.capacity import memory
from ctwa.engine.checks.engine import is_greedy
from ctwa.engine.checks.model import model_source
from ctwa.engine.policy_loss import read_policy_loss
from ctwa.models.look import weight_shapes

GB = 1e9
BYTES = 4
"""Of a number in fp32."""


def line(label: str, text: object) -> str:
    """A line of a plan."""
    return f"  {label:<12} {text}"


def optimizer_line(config: DictConfig, num_steps: int) -> str:
    """The optimizer with its learning rate, and how that changes over the steps of the run."""
    optim = config.actor_rollout_ref.actor.optim
    rank = config.actor_rollout_ref.model.get("lora_rank") or 0
    what = f"a LoRA adapter of rank {rank}" if rank else "all weights"
    return line(
        "optimizer",
        f"{optim.optimizer}, lr {optim.lr:g} ({_schedule(optim, num_steps)}), gradients to norm {optim.clip_grad:g}; "
        f"{what}",
    )


def _schedule(optim: DictConfig, num_steps: int) -> str:
    """The course of the learning rate, as verl reads it: a ratio counts where no steps are said, the old name first."""
    steps = optim.lr_warmup_steps if optim.lr_warmup_steps > 0 else int(optim.lr_warmup_steps_ratio * num_steps)
    warmup = f", {steps} steps of warm-up" if steps > 0 else ""
    ends = f", more than the run has: it ends at {num_steps / steps:.2g} of the rate" if steps > num_steps else ""
    return f"{optim.warmup_style or optim.lr_scheduler_type}{warmup}{ends}"


def reference_line(num_pairs: str) -> str:
    """What a training on pairs keeps of the reference.

    Args:
        num_pairs: in words, of which it is asked; none where it is not.
    """
    if not num_pairs:
        return line("reference", "none: the loss compares with none")
    kept = f"{memory.PAIR_REFERENCE} bytes a pair are kept, and no model beside the policy"
    return line("reference", f"its log-probabilities of {num_pairs} pairs, 1 forward before the first step; {kept}")


def validation_line(config: DictConfig, how: str = "", *, ends_with_both: bool = False) -> str:
    """How often held-out rows are looked at, and checkpoints are written.

    Args:
        config: the resolved config.
        how: held-out rows are looked at.
        ends_with_both: whether the last step is validated and saved whatever the frequencies say.
    """
    trainer = config.trainer
    last = "after the last step alone" if ends_with_both else ""
    never = last or ("before the first step alone" if trainer.val_before_train else "none")
    validation = f"every {trainer.test_freq} steps" if trainer.test_freq > 0 else never
    how = "" if validation == "none" else how
    checkpoint = f"checkpoint {last}" if last else "no checkpoint"
    saved = f"checkpoint every {trainer.save_freq} steps" if trainer.save_freq > 0 else checkpoint
    return line("validation", f"{validation}{how}; {saved}")


def loss_line(config: DictConfig) -> str:
    """The advantages, the policy's loss and its KL term."""
    actor = config.actor_rollout_ref.actor
    loss = read_policy_loss(actor)
    words = f"{actor.policy_loss.loss_mode}, whose token weights are not known" if loss is None else loss.words()
    in_loss = f"KL {actor.kl_loss_coef:g} ({actor.kl_loss_type})" if actor.use_kl_loss else ""
    kl = ", ".join(each for each in (in_loss, _kl_in_reward(config)) if each) or "no KL term"
    entropy = f", entropy bonus {actor.entropy_coeff:g}" if actor.entropy_coeff else ""
    return line(
        "loss", f"advantages by {config.algorithm.adv_estimator}, {words}, {actor.loss_agg_mode}, {kl}{entropy}"
    )


def _kl_in_reward(config: DictConfig) -> str:
    if not config.algorithm.use_kl_in_reward:
        return ""
    control = config.algorithm.kl_ctrl
    adapted = f", adapted to a KL of {control.target_kl:g} a token" if control.type == "adaptive" else ""
    return f"KL {control.kl_coef:g} ({config.algorithm.kl_penalty}{adapted}) in the reward"


def decoding(config: DictConfig) -> str:
    """How held-out prompts are completed, beside those that are trained on."""
    rollout = config.actor_rollout_ref.rollout
    validation = rollout.val_kwargs
    if is_greedy(validation):
        return f"completed greedily; training samples at temperature {rollout.temperature:g}"
    if validation.temperature == rollout.temperature:
        return f"sampled at temperature {validation.temperature:g}, as in training"
    return f"sampled at temperature {validation.temperature:g}; training at {rollout.temperature:g}"


def size_lines(config: DictConfig, *, num_models: int = 1, num_gradients: int = 1) -> list[str]:
    """A guess at memory and disk, from the headers of the model's files; nothing where it has to be downloaded yet.

    Args:
        config: the resolved config.
        num_models: copies of the weights beside the trained ones: a rollout's, a reference's.
        num_gradients: of each weight that are kept at once.
    """
    shapes = weight_shapes(model_source(config))
    if shapes is None:
        return []
    num_parameters = sum(math.prod(shape) for shape in shapes.values())
    weights = num_parameters * BYTES / GB
    number_bytes = memory.NUMBER_BYTES.get(str(config.actor_rollout_ref.actor.fsdp_config.model_dtype), BYTES)
    has_adapter = bool(config.actor_rollout_ref.model.get("lora_rank"))
    num_trained = 0 if has_adapter else num_parameters  # an adapter is small beside the model
    trained = sum(memory.to_train(num_parameters, num_trained, num_gradients, number_bytes).values()) / GB
    copies = f", {num_models} more copies of {weights:.3g} GB" if num_models else ""
    saved = memory.saved(num_parameters, num_trained, num_parameters, number_bytes) / GB
    folder = Path(config.ctwa.run)
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free / GB
    kept = config.trainer.max_actor_ckpt_to_keep
    need = saved * (kept + 1 if kept else 1)
    return [
        line(
            "memory",
            f"{num_parameters / 1e6:.3g} M parameters: {trained:.3g} GB to train them{copies}; activations beside",
        ),
        line(
            "disk",
            f"{saved:.3g} GB a checkpoint, {f'{kept} are kept' if kept else 'all are kept'}; {free:.0f} GB free"
            + (f", which is too little for {need:.3g}" if need > free else ""),
        ),
    ]
