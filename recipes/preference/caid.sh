#!/usr/bin/env bash
# MoCAID on the testbed: the most conciseness and clarity for which accuracy rises by a threshold.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/caid.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/caid.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   THRESHOLD how much accuracy is to exceed the reference's  (default: 0.05)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# At the default step of the multipliers four policies are too few here: docs/results/preference.md
caid "$RECIPE" "ctwa.caid.thresholds={accuracy:${THRESHOLD:-0.05}}" ctwa.caid.eta=2 "$@"
