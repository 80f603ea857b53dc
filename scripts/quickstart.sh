#!/usr/bin/env bash
# From nothing to three fine-tuned models: takes a small base model that writes sums out, fine-tunes it on accuracy,
# conciseness and clarity, with fixed (linear) weights, with CTWA and with the guard, and shows the three side by side.
#
# Needs Python 3.11 or 3.12 and no GPU. Safe to run twice: the environment and the base model are reused, and every
# call writes run folders of its own under runs/. Arguments are settings of every run, for example
# trainer.total_training_steps=20.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

testbed=runs/testbed-D
runs="runs/quickstart-$(date +%Y%m%d-%H%M%S)"

ctwa_setup
export PATH="$CTWA_VENV/bin:$PATH"

say "Writing problems and the base model that comes with ctwa to $testbed (kept if they are there)."
ctwa testbed make --preset D --out "$testbed"

say "Fine-tuning with one method after the other, on one engine: $runs"
ctwa train task=testbed engine=cpu method=linear,ctwa,guard ctwa.task_dir="$testbed" ctwa.run="$runs" "$@"

say "The three runs side by side:"
ctwa summary "$runs/linear" "$runs/ctwa" "$runs/guard" --figure "$runs/curves.png"
say "For the commands above: source $CTWA_VENV/bin/activate"
