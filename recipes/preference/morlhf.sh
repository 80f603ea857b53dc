#!/usr/bin/env bash
# MORLHF on the testbed: reinforcement learning on the weighted sum of the rewards that label the preference pairs.
# In place of PPO with a critic and an adaptive KL penalty in the reward: GRPO with a fixed KL loss.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/morlhf.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/training.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

preference_rl method=linear "$@"
