#!/usr/bin/env bash
# Fine-tunes on prompts with constraints that code checks (docs/instructions.md): 20 steps of SmolLM2-135M on a CPU.
# Make the model first: scripts/smollm2.sh. The prompts are made where there are none.
#
#   recipes/instructions.sh METHOD [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/training.md
#
#   METHOD     a method of `ctwa methods`, or static: fixed weights that favour constraints
#   MODEL      a model's folder or its name on the hub      (default: models/smollm2-135m)
#   LORA=1     train an adapter of rank 16; the run's folder is then runs/instructions-lora-METHOD-s$SEED
#   ENGINE     cpu (default); one_gpu, or gpu with GPUS=1 (default) or 4: other sizes, and the MODEL is Qwen/Qwen3-0.6B by
#              default. Qwen/Qwen3-1.7B fits as well. Neither has been tried.
#   DATA       the folder of the prompts                    (default: runs/instructions)
#   ESTIMATOR  grpo (default) or reinforce (whitened advantages without clipping)
#   SEED       of data order, sampling and initialisation   (default: 0)
#   RESUME=1   continue the run in runs/instructions-METHOD-s$SEED, or in the folder of ctwa.run=...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

HARD=constraints
EASY=(brevity well_formed)
EASY_TARGETS=(0.6 0.8)
choose_method 10 "$@"
instructions data.train_batch_size=32 actor_rollout_ref.rollout.n=8 data.max_response_length=256 \
    "data.val_files=\${ctwa.task_dir}/held_out.parquet" \
    trainer.total_training_steps=200 trainer.test_freq=20 trainer.save_freq=100 \
    actor_rollout_ref.actor.optim.lr=1.0e-6 actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
    +data.apply_chat_template_kwargs.enable_thinking=false
if [[ "${1:-}" == ctwa && "${ENGINE:-cpu}" == cpu ]]; then
    METHOD_SETTINGS+=(ctwa.method.eta=2 ctwa.method.statistic=in_update) # the paper's eta of .05 is for hundreds of steps
fi
exec ctwa train "${TASK_SETTINGS[@]}" "${METHOD_SETTINGS[@]}" "${@:2}"
