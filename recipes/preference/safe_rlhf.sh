#!/usr/bin/env bash
# Safe RLHF's PPO-Lagrangian on the testbed: conciseness is maximised while accuracy is held at a target. As in the paper
# the advantages are divided by one plus the multiplier, which is at most 5. In place of PPO with two critics and an
# adaptive KL penalty: GRPO with a fixed KL loss. The multiplier starts at 0 and moves by sums, the paper's by factors.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/safe_rlhf.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/training.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   TARGET    mean accuracy to hold                       (default: 0.47)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

preference_rl method=lagrangian ctwa.method.objective=conciseness "ctwa.method.targets={accuracy:${TARGET:-0.47}}" \
    ctwa.method.normalize=true ctwa.method.cap=5 ctwa.method.eta=0.1 "$@"
