#!/usr/bin/env bash
# CLAMP on PKU-SafeRLHF, helpful against harmless, with LoRA of rank 8 on four GPUs. mu, beta, alpha, batch and early
# stopping are those of its paper (Table 8), whose dropout of .05 and base model in 8 bits are not here. The tests compose
# and check it; we have not run it.
#
#   recipes/preference/pku_clamp.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   MODEL     a folder, or a name on the hub               (default: Qwen/Qwen3-4B-Instruct-2507)
#   DATA      a file, or a name on the hub                 (default: PKU-Alignment/PKU-SafeRLHF-10K)
#   ENGINE    gpu (default) or cpu
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

pku method=clamp "ctwa.early_stopping={patience:10}" trainer.test_freq=50 trainer.total_epochs=10 \
    data.train_batch_size=20 actor_rollout_ref.actor.optim.lr=1e-5 actor_rollout_ref.model.lora_alpha=32 "$@"
