#!/usr/bin/env bash
# The static loss of AMoPO, a baseline of RACO's paper, on the testbed's preference pairs: no reference, no margin.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/amopo_static.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

prefer "$RECIPE" method=linear loss=simpo ctwa.loss.gamma=0 ctwa.loss.beta=0.8 "$@"
