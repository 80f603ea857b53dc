"""Remakes docs/compatibility.md: what ctwa can work with (pyproject.toml) and what was tested (constraints/, lib.sh).

With --check it writes nothing, and ends with status 1 where the page is not as it would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
SHOWN = ("torch", "transformers", "verl", "vllm", "ray", "trl", "flash-attn", "tensordict", "datasets", "numpy")
TEXT = """# What works with what

Made by `scripts/compatibility.py` from `pyproject.toml` and `constraints/`; a test keeps it up to date.

ctwa {version} needs Python {python}.{not_of_verl}

| package | ctwa works with | tested on a CPU | resolved for GPUs | needed by |
|---|---|---|---|---|
{rows}

"Works with" are the bounds that pip keeps; each has its reason in `pyproject.toml`. The other two columns are exact:
`constraints/cpu.txt` is what the tests run on (Python 3.11; TRL is in a folder of its own), `constraints/gpu.txt` what
the extra `gpu` and [the image](../docker/Dockerfile) install (Python 3.12, CUDA 13.0).
"""


def page() -> str:
    """The page as it should be."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = {name: _pinned((ROOT / "constraints" / f"{name}.txt").read_text()) for name in ("cpu", "gpu")}
    # TRL is never beside verl, and so in no constraints: the tests have it in a folder of its own.
    (beside,) = re.findall(r'^CTWA_TRL="(.+)"$', (ROOT / "scripts" / "lib.sh").read_text(), re.MULTILINE)
    tested["cpu"] |= _pinned(beside)
    rows = []
    for name in SHOWN:
        found = [(extra, bounds) for extra, package, bounds in _requirements(project) if package == name]
        pins = [tested[which].get(name, "-") for which in ("cpu", "gpu")]
        if not found and pins == ["-", "-"]:
            continue
        bounds = " and ".join(dict.fromkeys(f"`{each}`" for _, each in found if each)) or "as verl wants it"
        extras = ", ".join(dict.fromkeys(f"`{extra}`" if extra else "the core" for extra, _ in found)) or "-"
        rows.append(f"| {name} | {bounds} | {pins[0]} | {pins[1]} | {extras} |")
    versions = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if line.startswith("Programming Language")]
    text = " With 3.13 it is the core alone: verl 0.9.1 stops before it." if "3.13" in versions else ""
    return TEXT.format(version=project["version"], python=_or(versions), not_of_verl=text, rows="\n".join(rows))


def _or(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])


def _requirements(project: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """By extra (empty for the core): a package and its bounds."""
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for requirement in map(Requirement, lines):
            yield extra, canonicalize_name(requirement.name), str(requirement.specifier)
            for part in requirement.extras if requirement.name != "ctwa" else ():  # verl[vllm]
                yield extra, canonicalize_name(part), ""


def _pinned(text: str) -> dict[str, str]:
    lines = [line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in lines}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif not PAGE.is_file() or PAGE.read_text() != page():
        print(f"{PAGE.relative_to(ROOT)} is out of date: python scripts/compatibility.py", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
