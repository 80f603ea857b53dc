#!/usr/bin/env bash
# Preference alignment on the prompts of recipes/instructions.sh: pairs of the model's own completions, labelled by the
# objectives. Make the model first: scripts/smollm2.sh. Prompts and pairs are made where there are none.
#
#   recipes/instructions_prefer.sh METHOD [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   METHOD        raco, clamp, or another method of `ctwa methods` (from preferences)
#   PAIR_PROMPTS  prompts that are completed four times each for the pairs   (default: 128)
#   MODEL, LORA, ENGINE, GPUS, DATA, SEED, RESUME   as in recipes/instructions.sh. Pairs are the model's own: another
#                 MODEL wants another DATA
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -z "${1:-}" || "$1" == *=* || "$1" == -* ]]; then
    echo "error: name a method first: $0 raco [KEY=VALUE]..." >&2
    exit 2
fi
run_settings "$RECIPE-$1"
instructions data.train_batch_size=32 ctwa.max_length=512 trainer.total_training_steps=200 actor_rollout_ref.actor.optim.lr=1.0e-6
instructions_pairs "$@"
exec ctwa prefer "${TASK_SETTINGS[@]}" "${RUN_SETTINGS[@]}" method="$1" "${@:2}"
