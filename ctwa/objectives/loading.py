"""From ``package.module:function`` or ``path/file.py:function`` to the function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ctwa.errors import CtwaError, did_you_mean, neighbour, shown, without_secrets
from ctwa.objectives.siblings import Siblings, file_of, how_to_import
from ctwa.shipped import shipped_folder

SHIPPED = shipped_folder()
"""Where the ready-made reward functions are, so that `reward_fns/accuracy.py:accuracy` works from any directory."""


def split_spec(spec: str) -> tuple[str, str]:
    """``(module or file, function)`` of a spec, the name as Python has it. Raises CtwaError where it is neither."""
    where, colon, name = spec.rpartition(":")
    name = unicodedata.normalize("NFKC", name)  # as Python does with the names of a file
    if not colon or not where.strip() or not name.isidentifier():
        raise CtwaError(
            f"reward function '{spec}' is not of the form 'path/file.py:function' or 'package.module:function'"
        )
    return where, name


def resolve_spec(spec: str) -> str:
    """The spec with an absolute path, so that it means the same file in a process with another current directory.

    A relative path is looked for from the current directory, then where the ready-made functions are.

    Raises:
        CtwaError: there is no such file.
    """
    where, name = split_spec(spec)
    if not _is_file(where):
        return spec
    path = Path(where).expanduser()
    candidates = list(dict.fromkeys(root / path for root in (Path.cwd(), SHIPPED)))
    if path.is_absolute():
        candidates = [path]
    for candidate in candidates:
        if candidate.is_file():
            return f"{candidate.resolve()}:{name}"
    raise CtwaError(
        f"reward function '{spec}': there is no file {' nor '.join(map(str, candidates))}"
        + next(filter(None, map(neighbour, candidates)), "")
    )


def load_function(spec: str) -> Callable[..., Any]:
    """Import the function a resolved spec names.

    Raises:
        CtwaError: the module cannot be imported, has no such function, or gets another reward file's modules
            (``siblings``).
    """
    where, name = split_spec(spec)
    file = Path(where) if _is_file(where) else None
    siblings = Siblings()
    try:
        module = _import_module(where) if file is None else _import_file(file)
    except CtwaError:
        raise
    except BaseException as error:  # the user's file may raise anything, SystemExit included
        siblings.check(spec, file)  # which may be why
        instead = "" if file is None else how_to_import(file, error)
        raise CtwaError(
            f"reward function '{spec}': importing {where} failed with {describe_error(error)}{instead}"
        ) from error
    siblings.check(spec, file_of(module))
    function = getattr(module, name, None)
    if inspect.isclass(function):
        raise CtwaError(f"reward function '{spec}': '{name}' is a class; give a function, or an object of the class")
    if not callable(function):
        if name in vars(module):
            raise CtwaError(
                f"reward function '{spec}': '{name}' is the {type(function).__name__} {shown(function)}; give a "
                "function"
            )
        there = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
        ]
        raise CtwaError(
            f"reward function '{spec}': {where} has no function '{name}', "
            f"it has {', '.join(repr(key) for key in there) or 'none'}" + did_you_mean(name, there)
        )
    return function


def check_kwargs(function: Callable[..., Any], spec: str, kwargs: Mapping[str, Any]) -> None:
    """See that an objective's ``kwargs`` are of the types that its function is annotated with, and let it look at them.

    It looks by ``check_NAME`` beside it, if there is one. A ``check_NAME`` that takes no arguments, or requires what is
    not among the ``kwargs``, is for something else, and is left alone.

    Raises:
        CtwaError: one is of another type, or ``check_NAME`` raises something (ValueError says what is wrong in its own
            words) or does not take one of them.
    """
    where, name = split_spec(spec)
    module = _import_file(Path(where)) if _is_file(where) else _import_module(where)
    check = getattr(module, f"check_{name}", None)
    if callable(check) and _looks_at(check, spec, kwargs):
        try:
            check(**kwargs)
        except (ValueError, CtwaError) as error:
            raise CtwaError(f"the kwargs of reward function '{spec}': {error}") from error
        except BaseException as error:  # SystemExit included
            _check_types(function, spec, kwargs)  # which is mostly why
            raise CtwaError(f"the kwargs of reward function '{spec}': {describe_error(error)}") from error
    _check_types(function, spec, kwargs)


def _check_types(function: Callable[..., Any], spec: str, kwargs: Mapping[str, Any]) -> None:
    """Compare values, which were written as YAML, with annotations; one that says nothing of YAML is passed over."""
    if not kwargs:
        return
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except Exception:  # noqa: BLE001 - an annotation of the user's may be any code
        return
    for name, value in kwargs.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.annotation is parameter.empty or (value is None is parameter.default):
            continue
        annotation = parameter.annotation
        try:
            TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            wanted = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
            said = "; ".join(dict.fromkeys(each["msg"] for each in error.errors(include_url=False)))
            raise CtwaError(
                f"the kwargs of reward function '{spec}': {name}={value!r} is not of its annotation, {wanted}: {said}"
            ) from error
        except (PydanticUserError, TypeError, ValueError):  # a class of the user's, or a value that is no YAML
            continue


def _looks_at(check: Callable[..., Any], spec: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a ``check_NAME`` is one of the kwargs. Raises CtwaError where it looks as if, and cannot take them."""
    try:
        signature = inspect.signature(check)
    except (TypeError, ValueError):  # no def, nor an object of a class
        return False
    parameters = signature.parameters.values()
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if not parameters or not all(each.name in kwargs for each in named if each.default is each.empty):
        return False
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        name = f"check_{split_spec(spec)[1]}"
        raise CtwaError(
            f"the kwargs of reward function '{spec}' are handed to {name} beside it: {error}; let it take all of them, "
            "or call it something else if it is for something else"
        ) from error
    return True


def describe_error(error: BaseException) -> str:
    """Type and message of an exception, and where in the reward function's own file it arose."""
    try:
        text = " ".join(without_secrets(str(error)).split())
    except Exception:  # noqa: BLE001 - an exception of the user's may have any __str__
        text = ""
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    ours = (Path(__file__).parent, Path(importlib.__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent not in ours and not frame.filename.startswith("<")
    ]
    if isinstance(error, SyntaxError) or not frames:
        return message
    line = [frame.lineno for frame in frames if frame.filename == frames[0].filename][-1]
    return f"{message} ({Path(frames[0].filename).name}, line {line})"


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where


def _import_file(path: Path) -> ModuleType:
    # A name of its own for every path, so that two files called reward.py live side by side.
    name = f"ctwa_reward_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise CtwaError(f"reward function file {path} is not a Python file; write it as a .py file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # before the code runs: dataclasses and pickle look the module up
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # the module is there, what it imports is not
        raise CtwaError(
            f"there is no module '{name}'; install it, run from the directory that holds it, "
            "or name the file: 'path/file.py:function'"
        ) from error
