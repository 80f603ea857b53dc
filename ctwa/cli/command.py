"""The command ``ctwa``: what all its commands share, how a run ends, and what a mistake ends in."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from ctwa.errors import CtwaError
from ctwa.run.disk import FAILS, check_place
from ctwa.run.log import RunFailed
from ctwa.run.text import clean_lines

if TYPE_CHECKING:
    from ctwa.engine.recorder import Stop

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def to_file(path: Path | None) -> Path | None:
    """See that a file can be written, before what it is to hold costs minutes."""
    if path is not None:
        if path.is_dir():
            raise CtwaError(f"{path} is a folder: give the name of a file")
        check_place(path)
    return path


def to_folder(path: Path | None) -> Path | None:
    """See that a folder can be made, or written in."""
    if path is not None:
        if path.is_file():
            raise CtwaError(f"{path} is a file: give the name of a folder")
        check_place(path)
    return path


def by_name(option: str, given: Sequence[str], form: str) -> dict[str, str]:
    """What an option that may be repeated was given, NAME=VALUE each, as a dictionary.

    Args:
        option: the option.
        given: what it was given.
        form: what is to be written, for the message.

    Raises:
        CtwaError: one is not of this form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for each in given:
        name, _, value = each.partition("=")
        if not name or not value:
            raise CtwaError(f"{option} {each}: write {form}")
        if name in found:
            raise CtwaError(f"{option} names {name} twice: leave one of {found[name]} and {value} out")
        found[name] = value
    return found


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ctwa {version('ctwa')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Multi-objective fine-tuning of language models: train on several rewards, see what each of them does."""


COMMAND_LINE = object()
"""What the context of a command holds that a user has typed: this process is the command's alone."""

STOPPED, INTERRUPTED = 3, 4
"""Exit status of a run that an alarm ended, and that a signal did; 1 is a run that failed, 2 a mistake in what the user
wrote, 130 a second Ctrl-C."""


def run(start: Callable[[], Stop | None]) -> None:
    """Start a run that signals can end; how it ended is the exit status."""
    from ctwa.engine.signals import Interruption, end_request

    with end_request.listening():
        try:
            stopped_by = start()
        except (KeyboardInterrupt, SystemExit) as error:
            if not end_request.explains(error) or end_request.insisted:
                raise
            # Inside of the run the recorder takes it, and saves what there is.
            Console(stderr=True).print(f"ended by {end_request.by} before the run began: nothing was written")
            sys.exit(INTERRUPTED)
    if stopped_by is not None:
        sys.exit(INTERRUPTED if isinstance(stopped_by, Interruption) else STOPPED)


UNBROKEN = 10_000
"""Columns of an output that has no width."""
ENGINE_PACKAGES = {
    *("verl", "ray", "transfer_queue", "tensordict", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
    *("hydra", "omegaconf", "pyarrow", "datasets", "matplotlib", "psutil", "httpx", "tenacity"),
}
"""Modules of the extra ``engine``, without which the methods work and the commands do not."""
REPORT_PACKAGES = {"plotly", "jinja2", "markupsafe"}
"""Those of the extra ``report``."""


def _say_wrong(what: str, status: int = 2) -> NoReturn:
    """Say what is wrong, without what could move the cursor: it may be of a file that was downloaded."""
    Console(stderr=True).print(Text(f"error: {clean_lines(what)}", "bold red"), soft_wrap=True)
    sys.exit(status)


def main() -> None:
    """Run the command; a user's mistake ends in one sentence."""
    try:
        app(obj=COMMAND_LINE)
    except CtwaError as error:
        _say_wrong(str(error))
    except OSError as error:
        if error.filename is None and error.errno not in FAILS:
            raise
        where = error.filename or "a file or folder"
        what = f"{where} cannot be used ({error.strerror}): give another path, or mend that"
        _say_wrong(what, status=1 if error.errno in FAILS else 2)
    except RunFailed:
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ENGINE_PACKAGES | REPORT_PACKAGES:
            raise
        install = "'ctwa[report]'" if package in REPORT_PACKAGES else "'ctwa[cpu]', or 'ctwa[gpu]'"
        _say_wrong(f"this needs {error.name}, which is not installed: pip install {install} (docs/install.md)")
    finally:
        gc.freeze()  # all of it goes with the process: Python need not look through it for garbage
