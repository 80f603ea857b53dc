#!/usr/bin/env bash
# Fine-tunes on MATH-500 with the paper's hyperparameters (ctwa/config/task/math500.yaml) on a node with four 48 GB GPUs.
# Prepare the data first: python scripts/prepare_math500.py --hub HuggingFaceH4/MATH-500 --out data/math500
#
#   recipes/math500.sh METHOD [KEY=VALUE]... [--dry-run]     any key of the configuration: docs/training.md
#
#   METHOD     a method of `ctwa methods`, or static: fixed weights that favour accuracy
#   MODEL      Qwen/Qwen2.5-1.5B (default), Qwen/Qwen2.5-1.5B-Instruct, Qwen/Qwen3-1.7B-Base, or a folder. All three
#              bring a chat template, the base models too.
#   ESTIMATOR  grpo (default) or reinforce (whitened advantages without clipping: the paper's main setting)
#   ENGINE     gpu (default) or cpu
#   DATA       the folder of the parquet files             (default: data/math500)
#   SEED       of data order, sampling and initialisation  (default: 0)
#   RESUME=1   continue the run in runs/math500-METHOD-s$SEED, or in the folder of ctwa.run=...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

choose_method 100 "$@"
exec ctwa train task=math500 "${METHOD_SETTINGS[@]}" engine="${ENGINE:-gpu}" \
    actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen2.5-1.5B}" ctwa.task_dir="${DATA:-data/math500}" "${@:2}"
