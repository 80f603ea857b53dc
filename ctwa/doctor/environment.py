"""What the environment changes: variables, names in the current directory, and the hub."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Container, Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

from ctwa.doctor.findings import Finding, Level, Needs

PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
OUR_PLUGIN = "ctwa.engine.verl.plugin"
LOCAL = ("localhost", "127.0.0.1")
PROBED = ("trl", "peft", "vllm", "sglang", "deepspeed", "megatron", "flash_attn", "xformers", "bitsandbytes", "apex")
"""Packages that verl or transformers use where they are installed: a folder of that name makes them look so."""


def environment(needs: Needs, variables: Mapping[str, str], here: Path) -> Iterator[Finding]:
    """Look at variables and names; what is not set is not told."""
    yield from _variables(needs, variables)
    yield from proxies(variables)
    yield shadows(here, sys.path, packages_distributions())


def _variables(needs: Needs, variables: Mapping[str, str]) -> Iterator[Finding]:
    if address := variables.get("RAY_ADDRESS"):
        means = "the run starts no Ray of its own, and joins that one"
        yield Finding(
            "RAY_ADDRESS", "warn", address, means, "unset RAY_ADDRESS, if that is not meant (docs/cluster.md)"
        )
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        hidden = visible.strip() in ("", "-1")
        means = "it hides every GPU" if hidden else "the run sees these GPUs alone"
        level: Level = "fail" if hidden and needs.device == "cuda" else "ok"
        yield Finding("CUDA_VISIBLE_DEVICES", level, repr(visible), means, "unset it" if level == "fail" else "")
    if "expandable_segments:True" in variables.get("PYTORCH_CUDA_ALLOC_CONF", "") and needs.vllm:
        means = "vLLM's memory pool, which sleeps while the trainer trains, does not work with it"
        yield Finding("PYTORCH_CUDA_ALLOC_CONF", "fail", "expandable_segments:True", means, "leave that out of it")
    if threads := variables.get("OMP_NUM_THREADS"):
        yield Finding("OMP_NUM_THREADS", "ok", threads, "how many threads a process of torch may use")
    if variables.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        means = "models and data sets by name are looked for among the downloads alone"
        yield Finding("HF_HUB_OFFLINE", "ok", variables["HF_HUB_OFFLINE"], means)
    for name in ("VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES"):
        if (value := variables.get(name)) and value != OUR_PLUGIN:
            yield Finding(name, "warn", value, "verl is changed by it", "unset it, if that is not meant")


def proxies(variables: Mapping[str, str]) -> Iterator[Finding]:
    """A proxy that would be asked for this machine's own servers."""
    found = next((name for name in PROXIES if variables.get(name)), None)
    if found is None:
        return
    spared = f"{variables.get('no_proxy', '')},{variables.get('NO_PROXY', '')}".replace(" ", "").split(",")
    lacking = [name for name in LOCAL if name not in spared and "*" not in spared]
    if lacking:
        means = "the servers of a run on this machine would be asked through it, and not answer"
        yield Finding(found, "fail", variables[found], means, f"export no_proxy={','.join(LOCAL)}")
    else:
        yield Finding(found, "ok", f"{variables[found]}, not for {' and '.join(LOCAL)}")


def shadows(here: Path, path: Sequence[str], packages: Mapping[str, object]) -> Finding:
    """Names in the current directory that are those of a package, which they would be imported in place of.

    Args:
        here: the current directory.
        path: where Python looks for modules.
        packages: the names that are installed.
    """
    there = {*packages, *sys.stdlib_module_names}
    own = {"ctwa", "test", "tests"}
    found = [
        entry.name
        for entry in sorted(here.iterdir())
        if entry.stem not in own and not entry.stem.startswith((".", "_")) and _is_taken(entry, there)
    ]
    if not found:
        return Finding("current directory", "ok", "no name of a package is taken in it")
    what = f"{', '.join(found)} {'has the name' if len(found) == 1 else 'have names'} of a package"
    is_on_path = any(each in ("", ".") or Path(each).absolute() == here.absolute() for each in path)
    if is_on_path:
        means = "the directory is on Python's path (PYTHONPATH, or python -m), so they are imported in its place"
        return Finding("current directory", "fail", what, means, "rename them, or take the directory off the path")
    means = "a run does not import from here, but a script or pytest would, and a reward function may"
    return Finding("current directory", "warn", what, means, "rename them, or start elsewhere")


def _is_taken(entry: Path, there: Container[str]) -> bool:
    """Whether Python would import a file or folder for a package of its name.

    A folder without an ``__init__.py`` is imported only where no such package is installed.
    """
    if entry.suffix == ".py" or (entry / "__init__.py").is_file():
        return entry.stem in there or entry.stem in PROBED
    return entry.is_dir() and entry.name in PROBED and entry.name not in there


def hub(address: str) -> Finding:
    """Whether a hub of models answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5):
            return Finding("hub", "ok", f"{address} answers")
    except (OSError, ValueError) as error:
        means = "models and data sets by name can be had from the downloads alone"
        return Finding("hub", "warn", f"{address}: {error}", means, "connect, or give folders")
