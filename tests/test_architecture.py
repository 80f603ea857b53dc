"""Imports run one way, and nothing but the engine and the command knows verl or ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ctwa"

NOUNS = {
    "errors",
    "arguments",
    "strict",
    "policy_loss",
    "batch",
    "weights",
    "method_info",
    "metrics",
    "shipped",
    "state",
}
"""The ground floor: every part may import it."""
ALLOWED = {
    "errors": set(),
    "statistics": {"solvers"},
    "strict": {"errors"},
    "arguments": {"errors"},
    "policy_loss": {"arguments", "errors"},
    "batch": {"arguments", "errors", "metrics", "policy_loss"},
    "weights": {"arguments", "errors"},
    "method_info": {"errors", "strict"},
    "metrics": {"errors"},
    "shipped": set(),
    "state": {"errors"},
    "config": set(),
    "data": set(),
    "solvers": set(),
    "covariance": {"solvers"},
    "aggregators": {"covariance", "solvers"},
    "scalarizers": {"covariance", "aggregators", "solvers"},
    "gradients": {"aggregators", "covariance", "scalarizers"},
    "objectives": {"chat", "covariance", "data"},
    "preference": {"covariance", "data", "aggregators", "objectives", "solvers"},
    "run": set(),
    "report": {"run", "statistics", "covariance", "solvers"},
    "imports": {"run", "report"},
    "models": {"run"},
    "starter": {"run"},
    "doctor": {"run"},
    "capacity": {"models"},
    "testbed": {"covariance", "objectives", "run", "models"},
    "instructions": {"run"},
    "methods": {"aggregators", "covariance", "loop_trace", "scalarizers"},
    "loop_trace": {"covariance", "run", "scalarizers"},
    "listing": {"scalarizers", "preference", "models"},
    "chat": {"run"},
    "integrations": {"covariance", "gradients", "objectives", "report", "run", "scalarizers", "statistics"},
    "evaluation": {
        "chat",
        "data",
        "objectives",
        "preference",
        "run",
        "report",
        "models",
        "testbed",
        "statistics",
        "instructions",
    },
}
"""What each part may import beside the ground floor."""
ALL = {*ALLOWED, "__init__"}
ALLOWED |= {"engine": ALL - {"evaluation", "integrations"}, "cli": ALL | {"engine"}}
KNOWS_THE_ENGINE = {"engine", "cli"}
KNOWS_ANOTHER_TRAINER = {"integrations/trl/trainer.py": "trl"}
"""Each of these imports a trainer that may not be here; no other file does."""
ENGINE_LIBRARIES = {"verl", "ray", "vllm", "transfer_queue", "tensordict"}
BEYOND_THE_METHODS = ENGINE_LIBRARIES | {"transformers", "matplotlib", "pandas", "pyarrow", "hydra", "omegaconf"}
FILES = sorted(set(PACKAGE.rglob("*.py")) - set((PACKAGE / "starter" / "template").rglob("*.py")))
"""All but the files of the project that `ctwa init` makes, which import each other from one folder."""


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module a file imports, wherever in the file, except what only type checkers see."""
    return frozenset(_imports(ast.parse(path.read_text())))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                # `from ctwa import covariance` imports a part too.
                yield from (f"{module}.{alias.name}" for alias in names)
        yield from _imports(child)


def part_of(path: Path) -> str:
    """The part of the house a file belongs to: ctwa/covariance/weights.py -> covariance."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_run_one_way() -> None:
    forbidden = []
    for path in FILES:
        part = part_of(path)
        allowed = {part, *ALLOWED.get(part, ()), *(NOUNS if part not in NOUNS else ())}
        imported = {name.split(".")[1] for name in imports_of(path) if name.startswith("ctwa.")}
        forbidden += [f"{path.relative_to(PACKAGE)} imports {name}" for name in sorted(imported - allowed)]

    assert forbidden == []


def test_only_the_engine_names_the_engine_libraries() -> None:
    forbidden = []
    for path in FILES:
        if part_of(path) in KNOWS_THE_ENGINE:
            continue
        # Evaluation may generate with vLLM, which it imports when it is asked to.
        known = {"vllm"} if part_of(path) == "evaluation" else set()
        imported = {name.split(".")[0] for name in imports_of(path)} & ENGINE_LIBRARIES - known
        forbidden += [f"{path.relative_to(PACKAGE)} imports {name}" for name in sorted(imported)]

    assert forbidden == []


def test_only_its_own_module_imports_another_trainer() -> None:
    trainers = set(KNOWS_ANOTHER_TRAINER.values())
    found = {
        path.relative_to(PACKAGE).as_posix(): name
        for path in FILES
        for name in {each.split(".")[0] for each in imports_of(path)} & trainers
    }

    assert found == KNOWS_ANOTHER_TRAINER


def test_the_methods_load_with_the_core_dependencies_and_the_rest_without_the_engine_libraries() -> None:
    """Imports the methods, then every module outside the engine in a fresh process; looks at what came along."""
    modules = sorted(
        "ctwa." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if part_of(path) not in {*KNOWS_THE_ENGINE, "__init__", "__main__"}
        and path.relative_to(PACKAGE).as_posix() not in KNOWS_ANOTHER_TRAINER
    )
    program = f"""
import importlib, sys
import ctwa, ctwa.covariance, ctwa.objectives, ctwa.scalarizers
print(*sorted({BEYOND_THE_METHODS!r} & set(sys.modules)))
for module in {modules!r}:
    importlib.import_module(module)
print(*sorted({ENGINE_LIBRARIES!r} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n\n"
