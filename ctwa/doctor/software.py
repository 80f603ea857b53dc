"""The software: Python, packages against their declared bounds, torch's build and the GPUs that it sees."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from ctwa.doctor.findings import Finding, Level, Needs

PYTHON = ((3, 11), (3, 13))
"""The first version that is taken, and the first that is not."""
IMPORT_TIMEOUT = 60  # s
WANTED_OF_TRL = "AutoModelForCausalLMWithValueHead"
LEAST_CAPABILITY = (8, 0)
"""Of a GPU: bfloat16 and flash-attn 2 begin there."""


def software(needs: Needs, *, engine: bool) -> Iterator[Finding]:
    """Look at all of it.

    Args:
        needs: of the run.
        engine: whether the packages of the engine are needed, too.
    """
    yield python(sys.version_info[:3])
    yield from packages(engine=engine)
    yield from gpus(needs)
    spec = find_spec("trl") if engine else None
    if spec is not None and spec.origin is not None and (found := trl(Path(spec.origin).parent)) is not None:
        yield found
    yield from _optional("vLLM", "vllm", needs.vllm, "pip install 'ctwa[gpu]' (docs/install.md)")
    yield from _optional(
        "flash-attn", "flash_attn", needs.flash_attn, "pip install --no-build-isolation flash-attn==2.8.3"
    )


def python(found: tuple[int, ...]) -> Finding:
    """The version of Python."""
    least, beyond = PYTHON
    what = ".".join(map(str, found))
    if not least <= found[:2] < beyond:
        return Finding(
            "Python", "fail", what, "verl has no release for it", "make an environment with Python 3.11 or 3.12"
        )
    return Finding("Python", "ok", what)


def packages(*, engine: bool, declared: list[str] | None = None) -> Iterator[Finding]:
    """The installed versions against what ctwa declares.

    Args:
        engine: whether those of the engine are needed.
        declared: the requirements, as pip writes them; ctwa's own.
    """
    requirements = [Requirement(line) for line in (requires("ctwa") if declared is None else declared) or ()]
    core = [each for each in requirements if _is_of(each, "")]
    extras = _with_those_within(requirements, "engine")
    beside = [each for each in requirements if each not in core and each.name != "ctwa"]
    of_engine = [each for each in beside if any(_is_of(each, extra) for extra in extras)]
    missing_engine = [each for each in of_engine if _version(each) is None]
    if of_engine and len(missing_engine) > len(of_engine) // 2:
        what = f"{len(missing_engine)} of its {len(of_engine)} packages are missing, e.g. {missing_engine[0].name}"
        means = "the methods work without it, and `ctwa train`, `prefer` and `caid` do not"
        yield Finding("engine", "fail" if engine else "warn", what, means, "pip install 'ctwa[cpu]', or 'ctwa[gpu]'")
        of_engine = [each for each in of_engine if each not in missing_engine]
    wrong = [finding for each in [*core, *of_engine] if (finding := _package(each)) is not None]
    if not wrong:
        yield Finding("packages", "ok", f"{len(core) + len(of_engine)} within the bounds that ctwa declares")
    yield from wrong


def trl(folder: Path) -> Finding | None:
    """TRL as it lies in a folder, of which verl takes a class wherever it finds any TRL; None where that is there.

    verl 0.9.1 looks for it in the two files below, and later versions of TRL have it in neither.
    """
    files = [folder / "__init__.py", folder / "experimental" / "ppo" / "__init__.py"]
    if any(WANTED_OF_TRL in file.read_text() for file in files if file.is_file()):
        return None
    means = "verl takes it for an older version, and a run ends while it starts"
    return Finding(
        "TRL",
        "fail",
        f"{folder} has no {WANTED_OF_TRL}",
        means,
        "pip uninstall trl, or keep it in an environment of its own (docs/trl.md)",
    )


def _with_those_within(requirements: Sequence[Requirement], extra: str) -> set[str]:
    """An extra, and those that it asks for: ``ctwa[report]``."""
    found, more = set[str](), {extra}
    while more:
        found |= more
        own = [each for each in requirements if each.name == "ctwa" and any(_is_of(each, extra) for extra in more)]
        more = {part for each in own for part in each.extras} - found
    return found


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return None


def _package(requirement: Requirement) -> Finding | None:
    bounds = f"{requirement.name}{requirement.specifier}"
    found = _version(requirement)
    if found is None:
        return Finding(requirement.name, "fail", "is not installed", do=f"pip install '{bounds}'")
    if requirement.specifier.contains(found, prereleases=True):
        return None
    exact = any(each.operator == "==" for each in requirement.specifier)
    means = "ctwa builds on the inside of this version" if exact else "nobody has tried ctwa with it"
    return Finding(requirement.name, "fail" if exact else "warn", found, means, f"pip install '{bounds}'")


def gpus(needs: Needs) -> Iterator[Finding]:
    """Torch's build, the driver, and the GPUs; that there is none is no fault where none is needed."""
    bad: Level = "fail" if needs.device == "cuda" else "ok"
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "fail", f"cannot be imported ({error})", "everything needs it", "install it anew")
        return
    built, needed = torch.version.cuda, needs.device == "cuda"
    what = f"{torch.__version__}, built for " + ("the CPU" if built is None else f"CUDA {built}")
    if built is None and needed:
        yield Finding("torch", "fail", what, "it sees no GPU", "pip install torch==2.11.0, which is built for CUDA")
    else:
        yield Finding("torch", "ok", what)
    driver = driver_cuda()
    if driver is None:
        means = "engine=gpu needs one" if needed else ""
        do = "start where there is one, or write engine=cpu" if needed else ""
        yield Finding("GPU", bad, "no NVIDIA driver is here", means, do)
        return
    if built is not None:
        yield against_driver(built, driver, needed=needed)
    found = torch.cuda.device_count() if built is not None else 0
    if found == 0 and built is not None:
        means = "torch finds no GPU, although there is a driver"
        yield Finding(
            "GPU", bad, "0", means, "see CUDA_VISIBLE_DEVICES, and that the container was given GPUs (--gpus all)"
        )
    yield from each_gpu(_nvidia_smi())


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver takes; None without a driver."""
    found = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found)) != 0:
            return None
    except OSError:
        return None
    return found.value // 1000, found.value % 1000 // 10


def against_driver(built: str, driver: tuple[int, int], *, needed: bool) -> Finding:
    """Whether the driver takes the CUDA that torch was built for: an older one of the same major version does."""
    wanted = tuple(map(int, built.split(".")[:2]))
    what = f"takes CUDA up to {driver[0]}.{driver[1]}"
    if driver[0] < wanted[0]:
        means = f"torch is built for {built}, and would see no GPU"
        do = f"update the driver, or install a torch that is built for CUDA {driver[0]}"
        return Finding("driver", "fail" if needed else "warn", what, means, do)
    return Finding("driver", "ok", what)


def _nvidia_smi() -> str:
    query = "--query-gpu=name,compute_cap,memory.total,memory.used"
    try:
        asked = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout if asked.returncode == 0 else ""


def each_gpu(table: str) -> Iterator[Finding]:
    """A finding a line of nvidia-smi's table: name, compute capability, memory and what is used of it, in MiB."""
    for number, row in enumerate(table.splitlines()):
        name, capability, total, used = (cell.strip() for cell in row.split(","))
        what = f"{name}, compute capability {capability}, {int(used) / 1024:.0f} of {int(total) / 1024:.0f} GB in use"
        topic = f"GPU {number}"
        if tuple(map(int, capability.split("."))) < LEAST_CAPABILITY:
            means = "it computes no bfloat16, and flash-attn 2 does not run on it"
            yield Finding(topic, "fail", what, means, "take one of capability 8.0 (Ampere) or later")
        elif int(used) > 0.1 * int(total):
            means = "another process has memory that the rollout is to take (rollout.gpu_memory_utilization)"
            yield Finding(topic, "warn", what, means, "end it (nvidia-smi lists them), or choose other GPUs")
        else:
            yield Finding(topic, "ok", what)


def _optional(topic: str, module: str, needed: bool, install: str) -> Iterator[Finding]:
    """A package that some runs need: whether it is there, and can be imported."""
    if find_spec(module) is None:
        if needed:
            yield Finding(topic, "fail", "is not installed", "the run needs it", install)
        else:
            yield Finding(topic, "ok", "is not installed, and not needed")
        return
    if not needed:
        yield Finding(topic, "ok", "is installed, and not needed")
        return
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", f"import {module}; print({module}.__version__)"],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Finding(topic, "warn", f"its import takes more than {IMPORT_TIMEOUT} s", "so does every start of a run")
        return
    if tried.returncode == 0:
        yield Finding(topic, "ok", tried.stdout.split()[-1])
        return
    error = (tried.stderr.strip().splitlines() or [f"it ended with {tried.returncode}"])[-1]
    yield Finding(topic, "fail", f"cannot be imported: {error}", "it was built for another torch, most likely", install)
