#!/usr/bin/env bash
# MODPO on the testbed: a policy that DPO has aligned to conciseness alone, then the pairs of accuracy with its implicit
# rewards as the margin. Overrides are those of the second run.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/modpo.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the runs in this recipe's run folders
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

policy="$(run_folder "preference-$RECIPE-conciseness")"
if is_dry_run "$@"; then
    policy="$TESTBED" # in place of a policy that is not there yet
elif [[ ! -e "$policy/summary.json" ]]; then
    single_objective conciseness
fi
prefer "$RECIPE" method=linear "ctwa.modpo={objective:accuracy,policies:{conciseness:'$policy'}}" "$@"
