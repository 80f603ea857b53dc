#!/usr/bin/env bash
# Everything that is checked: ruff, mypy, then all tests.
#
#   scripts/test.sh                     everything, as continuous integration does
#   scripts/test.sh engine              without what starts Ray clusters: the core, and the engine's parts
#   scripts/test.sh core                the methods, rewards and losses alone, and no mypy: within two minutes
#   scripts/test.sh tests/covariance    arguments go to pytest, after a tier or without one
#   CTWA_SKIP_VLLM=1 scripts/test.sh    without vLLM: its tests are skipped
#   CTWA_TEST_PROCESSES=0 ...           one test after the other, not two beside each other
#
# The tests of ctwa.integrations run first, in processes of their own that have TRL on their path; where arguments say which
# tests to run, they need it from you: PYTHONPATH=.venv/trl.
#
# What a tier holds stands in tests/conftest.py. Safe to run twice; the environment is reused. Ends with pytest's own
# closing line, and with its exit status.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

tier=all
case "${1:-}" in
    core | engine)
        tier="$1"
        shift
        ;;
esac

ctwa_setup
export PATH="$CTWA_VENV/bin:$PATH"
say "ruff check"
ruff check .
say "ruff format --check"
ruff format --check .
if [[ "$tier" != core ]]; then
    say "mypy, beside what else is set up"
    mypy >"$CTWA_VENV/mypy.log" 2>&1 &
    types=$!
    trap 'kill "$types" 2>/dev/null || true' EXIT # what follows may fail
fi
if [[ "${CTWA_SKIP_VLLM:-0}" == 1 ]]; then
    say "Leaving vLLM out: CTWA_SKIP_VLLM is 1."
elif [[ "$tier" == all ]]; then
    ctwa_setup_vllm
fi
if [[ "$tier" == all ]]; then
    ctwa_setup_model
    ctwa_setup_trl
fi
# Tests of the report look at it in a browser: one on the PATH, else playwright's own, kept beside the environment.
export PLAYWRIGHT_BROWSERS_PATH="$CTWA_VENV/browsers"
if [[ "$tier" != core && -z "${CTWA_CHROMIUM:-}" ]] && ! command -v chromium chromium-browser google-chrome >/dev/null; then
    log="$CTWA_VENV/browsers.log"
    find_own() { find "$PLAYWRIGHT_BROWSERS_PATH" -type f -name chrome-headless-shell -print -quit 2>/dev/null || true; }
    if [[ -z "$(find_own)" ]]; then
        say "Fetching a Chromium for the tests of the report."
        timeout 300 python -m playwright install --only-shell chromium >"$log" 2>&1 || true
    fi
    CTWA_CHROMIUM="$(find_own)"
    if [[ -n "$CTWA_CHROMIUM" ]] && "$CTWA_CHROMIUM" --version >>"$log" 2>&1; then
        export CTWA_CHROMIUM
    else
        unset CTWA_CHROMIUM
        say "Note: no Chromium could be fetched or started ($log); tests in a browser are skipped. Install chromium to have them."
    fi
fi
# Several processes share the cores: with more threads each they wait for one another.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
processes="${CTWA_TEST_PROCESSES:-2}"

if [[ "$tier" != core ]]; then
    checked=0
    wait "$types" || checked=$?
    say "mypy says:"
    cat "$CTWA_VENV/mypy.log"
    trap - EXIT
    ((checked == 0)) || exit "$checked"
fi
if [[ "$tier" == all && $# == 0 ]]; then
    say "pytest, with TRL on the path"
    PYTHONPATH="$CTWA_VENV/trl" python -m pytest --numprocesses="$processes" --dist=loadfile tests/integrations
fi
say "pytest"
# In two processes, file by file in the order of tests/conftest.py: one engine leaves half of two cores idle.
exec python -m pytest --numprocesses="$processes" --dist=loadfile --no-loadscope-reorder --tier="$tier" "$@"
