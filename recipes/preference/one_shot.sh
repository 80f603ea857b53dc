#!/usr/bin/env bash
# One-shot dualization on the testbed: the first policy of recipes/preference/caid.sh, and no other.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/one_shot.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/caid.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   THRESHOLD how much accuracy is to exceed the reference's  (default: 0.05)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

caid "$RECIPE" "ctwa.caid.thresholds={accuracy:${THRESHOLD:-0.05}}" ctwa.caid.iterations=1 "$@"
