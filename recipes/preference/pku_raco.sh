#!/usr/bin/env bash
# RACO on PKU-SafeRLHF, helpful against harmless, with LoRA of rank 8 on four GPUs. c, beta, learning rate and schedule
# are those of RACO's published runs of this model. The tests compose and check it; we have not run it.
#
#   recipes/preference/pku_raco.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   MODEL     a folder, or a name on the hub               (default: Qwen/Qwen3-4B-Instruct-2507)
#   DATA      a file, or a name on the hub                 (default: PKU-Alignment/PKU-SafeRLHF-10K)
#   ENGINE    gpu (default) or cpu
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

pku method=raco ctwa.loss.beta=0.2 ctwa.max_length=2048 data.train_batch_size=64 \
    actor_rollout_ref.actor.optim.lr=2e-5 actor_rollout_ref.actor.optim.lr_scheduler_type=cosine \
    actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.1 "$@"
