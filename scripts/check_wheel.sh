#!/usr/bin/env bash
# Tries a wheel as somebody without a clone has it: in an environment of its own, from an empty folder.
#
#   scripts/check_wheel.sh WHEEL [PYTHON]
#
#   PYTHON   an interpreter that has what ctwa needs (default: that of .venv); nothing is installed into it. Without the
#            engine's packages only the core is tried.
set -euo pipefail
wheel="$(realpath "${1:?name a wheel, e.g. dist/ctwa-0.1.0-py3-none-any.whl}")"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${2:-$root/.venv/bin/python}"
unset PYTHONPATH

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m venv --without-pip "$work/venv"
site="$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/shared.pth" # after the wheel's own
"$python" -m pip --python "$work/venv/bin/python" install --quiet --disable-pip-version-check --no-deps --ignore-installed "$wheel"
export PATH="$work/venv/bin:$PATH"
mkdir "$work/empty"
cd "$work/empty"

try() { # a command whose output is shown if it fails
    printf 'trying: %s\n' "$*"
    "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        exit 1
    }
}

try python -c "import ctwa.methods as m, sys; assert m.__file__.startswith('$site'), m.__file__; assert 'verl' not in sys.modules"
try ctwa --help
try ctwa methods ctwa
try ctwa rewards
try ctwa init project --recipes
try test -x project/recipes/testbed.sh
cd project
try ctwa check-reward rewards.py:correct --data data/train.jsonl
rm -r reward_fns recipes
try ctwa check-reward reward_fns/clarity.py:clarity --data data/train.jsonl
if "$work/venv/bin/python" -c 'import verl' 2>/dev/null; then
    ctwa doctor --json >doctor.json || [[ $? -eq 1 ]] # 1: it found something about this machine
    try python -c "import json; assert json.load(open('doctor.json'))"
    try ctwa testbed make --preset D --out ../testbed-D
    try ctwa train task=testbed ctwa.task_dir=../testbed-D ctwa.run=../run --dry-run
    try ctwa from-verl algorithm.adv_estimator=grpo data.train_files=train.parquet
else
    echo "verl is not installed here: the commands that train were not tried"
fi
echo "the wheel works without a clone"
