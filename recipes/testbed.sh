#!/usr/bin/env bash
# Fine-tunes the testbed's base model on a CPU. Make the testbed first: ctwa testbed make --preset D --out runs/testbed-D
#
#   recipes/testbed.sh METHOD [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/training.md
#
#   METHOD    a method of `ctwa methods`, or static: fixed weights that favour accuracy
#   TESTBED   the testbed's folder                         (default: runs/testbed-D)
#   ESTIMATOR grpo (default) or reinforce (whitened advantages without clipping)
#   SEED      of data order, sampling and initialisation   (default: 0)
#   RESUME=1  continue the run in runs/testbed-METHOD-s$SEED, or in the folder of ctwa.run=...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

choose_method 50 "$@"
exec ctwa train task=testbed "${METHOD_SETTINGS[@]}" engine=cpu ctwa.task_dir="$TESTBED" "${@:2}"
