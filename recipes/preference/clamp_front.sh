#!/usr/bin/env bash
# CLAMP at five preferences, and a report that draws their front. All have equally many steps: there is no early stopping.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/clamp_front.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the runs in this recipe's run folders
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

front method=clamp "$@"
