#!/usr/bin/env bash
# Adds vLLM for the CPU to the environment, so that the rollout of a GPU run can be used and tested without a GPU.
# Safe to run twice. docs/install.md says why it is a script and not an extra.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

ctwa_setup
ctwa_setup_vllm
