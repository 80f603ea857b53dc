#!/usr/bin/env bash
# CAGrad on the testbed's preference pairs: RACO without its clipping.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/raco_unclipped.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

prefer "$RECIPE" method=raco_unclipped "$@"
