#!/usr/bin/env bash
# Trains by the settings of task.yaml, and sums the run up:
#
#   ./train.sh METHOD [KEY=VALUE]... [--dry-run]
#
#   METHOD   a method of `ctwa methods`, e.g. ctwa, linear or mgda
#   MODEL    a model's folder, or its name on a hub  (default: the small model that comes with ctwa, made in model/)
#   SEED     of data order, sampling and initialisation  (default: 0)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ $# -eq 0 || $1 == -* || $1 == *=* ]]; then
    echo "write a method first, e.g. ./train.sh ctwa (\`ctwa methods\` lists them)" >&2
    exit 2
fi
if [[ -z "${MODEL:-}" ]]; then
    ctwa testbed make --preset D --out model
    MODEL=model/model
fi
SEED="${SEED:-0}"
exec ctwa train task.yaml method="$1" ctwa.run="runs/$1-s$SEED" ctwa.seed="$SEED" \
    actor_rollout_ref.model.path="$MODEL" "${@:2}"
