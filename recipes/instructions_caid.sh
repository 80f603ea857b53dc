#!/usr/bin/env bash
# MoCAID on the prompts of recipes/instructions.sh: the most brevity and well-formedness for which the share of constraints
# that are kept rises by a threshold. Make the model first: scripts/smollm2.sh. The prompts are made where there are none.
#
#   recipes/instructions_caid.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/caid.md
#
#   THRESHOLD  how much constraints are to exceed the reference's   (default: 0.05)
#   MODEL, LORA, ENGINE, GPUS, DATA, SEED, RESUME   as in recipes/instructions.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run_settings "$RECIPE"
instructions data.max_response_length=256 data.train_batch_size=32 actor_rollout_ref.actor.optim.lr=1.0e-6 \
    +data.apply_chat_template_kwargs.enable_thinking=false
if [[ "${ENGINE:-cpu}" == cpu ]]; then # two cores sample 32 prompts eight times in some minutes
    TASK_SETTINGS+=(data.val_max_samples=32 actor_rollout_ref.rollout.val_kwargs.n=8
        actor_rollout_ref.rollout.val_kwargs.temperature=0.7 ctwa.caid.iterations=2 ctwa.steps_per_iteration=8
        data.train_batch_size=8)
    if [[ "${LORA:-0}" != 1 ]]; then # the default is that of a model of 0.6 million parameters
        TASK_SETTINGS+=(actor_rollout_ref.actor.optim.lr=1.0e-5)
    fi
fi
exec ctwa caid "${TASK_SETTINGS[@]}" "${RUN_SETTINGS[@]}" "ctwa.caid.thresholds={constraints:${THRESHOLD:-0.05}}" "$@"
