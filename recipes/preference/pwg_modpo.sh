#!/usr/bin/env bash
# PWG-MODPO, a baseline of CLAMP's paper: a data set for each objective, gradients summed by the preference. A step has as
# many pairs of each of the two sets as the other recipes have of the one that their objectives share.
# On a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/preference/pwg_modpo.sh [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/preference.md
#
#   TESTBED   the testbed's folder; pairs are made in it  (default: runs/testbed-D)
#   SEED      of data order and initialisation             (default: 0)
#   RESUME=1  continue the run in this recipe's run folder
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

make_pairs pairs-1 1
prefer "$RECIPE" method=linear data.train_batch_size=64 \
    ctwa.objectives.conciseness.data="$TESTBED/pairs-1/train.parquet" "$@"
