#!/usr/bin/env bash
# Everything that is checked: set-up, ruff, mypy, then all tests, those that start the engine last.
#
#   scripts/test.sh                     everything, as continuous integration does
#   scripts/test.sh tests/covariance    arguments go to pytest
#   CTWA_SKIP_VLLM=1 scripts/test.sh    without vLLM: its tests are skipped
#
# Safe to run twice; the environment is reused. Ends with pytest's own closing line, and with its exit status.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

ctwa_setup
if [[ "${CTWA_SKIP_VLLM:-0}" == 1 ]]; then
    say "Leaving vLLM out: CTWA_SKIP_VLLM is 1."
else
    ctwa_setup_vllm
fi
export PATH="$CTWA_VENV/bin:$PATH"
# Several processes share the cores: with more threads each they wait for one another.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

say "ruff check"
ruff check .
say "ruff format --check"
ruff format --check .
say "mypy"
mypy
say "pytest"
exec python -m pytest "$@"
