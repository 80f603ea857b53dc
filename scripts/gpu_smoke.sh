#!/usr/bin/env bash
# Tries on one NVIDIA GPU, in ten minutes, what ctwa needs of it, and writes a report to send: bf16, flash-attention and
# vLLM where they are installed, three steps of every level of method, LoRA, resuming, and the numbers that must agree.
# It downloads nothing; the model is the testbed's, and SmolLM2 where its folder is there.
#
#   scripts/gpu_smoke.sh [--cpu] [--out DIR] [--model FOLDER] [--minutes 10] [--only NAME]...
#
#   --cpu       the same checks without a GPU, as far as they go
#   --out       where runs, logs and report.md are put    (default: runs/smoke-DATE)
#   --model     SmolLM2's folder                          (default: models/smollm2-135m, if it is there)
#   --minutes   what is not begun by then is not run
#   --only      some checks by name
#
# Run it in the environment that ctwa is installed in. The exit status is 1 where a check failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v ctwa >/dev/null; then
    echo "error: the command ctwa is not found: activate its environment first (source .venv/bin/activate)." >&2
    exit 127
fi
exec python scripts/gpu_smoke.py "$@"
