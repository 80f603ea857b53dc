#!/usr/bin/env bash
# Rewarded Soups on the testbed: DPO for each objective alone, the two models merged by five preferences, all evaluated.
# The merged models and the results are in runs/preference-soups-s0.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/soups.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the runs in this recipe's run folders
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

for objective in accuracy conciseness; do
    single_objective "$objective" "$@"
done
if is_dry_run "$@"; then
    exit
fi
accuracy="$(run_folder "preference-$RECIPE-accuracy")"
conciseness="$(run_folder "preference-$RECIPE-conciseness")"
soups="$(run_folder "preference-$RECIPE")"
models=()
for share in "${SHARES[@]}"; do
    if [[ ! -e "$soups/p0.$share" ]]; then
        ctwa merge "$accuracy=0.$share" "$conciseness=0.$((100 - share))" --out "$soups/p0.$share"
    fi
    models+=("$soups/p0.$share")
done
ctwa eval "$accuracy" "$conciseness" "${models[@]}" --task-dir "$TESTBED" --out "$soups/eval"
