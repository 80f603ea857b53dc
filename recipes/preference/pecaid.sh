#!/usr/bin/env bash
# PeCAID on the testbed: policies that DPO has aligned to one objective each take the place of the reward functions.
# Overrides are those of ctwa caid. Its val/<name> are implicit rewards; the rewards themselves are what
# ctwa eval --task-dir runs/testbed-D runs/preference-pecaid-s0 measures.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/pecaid.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/caid.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   THRESHOLD how much accuracy's implicit reward is to exceed the reference's  (default: 0.1)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the runs in this recipe's run folders
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

policies=()
for objective in accuracy conciseness; do
    policy="$(run_folder "preference-$RECIPE-$objective")"
    if is_dry_run "$@"; then
        policy="$TESTBED" # in place of a policy that is not there yet
    elif [[ ! -e "$policy/summary.json" ]]; then
        single_objective "$objective"
    fi
    policies+=("$objective:'$policy'")
done
caid "$RECIPE" "ctwa.policies={${policies[0]},${policies[1]}}" "ctwa.caid.thresholds={accuracy:${THRESHOLD:-0.1}}" \
    ctwa.objectives.conciseness.weight=1 ctwa.objectives.clarity.weight=0 "$@"
