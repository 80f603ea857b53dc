#!/usr/bin/env bash
# CLAMP on the testbed's preference pairs, with the early stopping of its paper.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/clamp.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

prefer "$RECIPE" method=clamp "ctwa.early_stopping={patience:10}" trainer.test_freq=4 "$@"
