"""Keeps the terminal for the user: what the engine prints, from any language or thread, goes to a log file."""

import contextlib
import ctypes
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ctwa.errors import CtwaError, without_secrets
from ctwa.run.disk import DiskFull, why_full
from ctwa.run.lock import hold
from ctwa.run.text import clean

_STDOUT, _STDERR = 1, 2
_TAIL_BYTES = 1 << 16
_TAIL_LINES = 12
_TELLING = re.compile(
    r"error|exception|fatal|killed|out of memory|\boom\b|segmentation|terminate called", re.IGNORECASE
)
# verl's and others' words, in every process of a run, on what they could not import and do not need.
_NOISE = re.compile(r"Warning: |warnings\.warn\(|\bWARN(ING)?\b.*(not available|not installed|No module|import)")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class RunFailed(RuntimeError):
    """A run ended by an error that the user has been told of; its cause is the error."""


@contextmanager
def quiet(log: Path, *, how_to_go_on: Callable[[], str] | None = None) -> Iterator[Console]:
    """Sends everything this process and its children print to `log`, and gives a console on the terminal instead.

    It works on the file descriptors, so that it holds for C libraries, for processes started inside, and for what Ray
    streams back from its workers. Shut Ray down inside, or its last words reach the terminal.

    An error ends in a clear message on the terminal and `RunFailed`: a `CtwaError` as its one sentence, and so a disk
    that is full; any other with the last telling lines of the log, and its traceback in the log. An interrupt passes
    through.

    Args:
        log: the file to append to.
        how_to_go_on: what the user is told after an error, too.

    Raises:
        RunFailed: the body raised an error; it has been reported.
        CtwaError: the log cannot be opened, or another run writes it.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        held = log.open("ab")
    except OSError as error:
        raise CtwaError(f"{log} cannot be written ({error.strerror}): give another folder, or mend that") from error
    # A descriptor of its own holds it: what is started inside inherits the others, and may outlive the run.
    with held:
        if not hold(held):
            raise CtwaError(f"another process writes {log}: wait for its end, or give another folder")
        yield from _logged(log, how_to_go_on)


def _logged(log: Path, how_to_go_on: Callable[[], str] | None) -> Iterator[Console]:
    log_descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    _flush()
    terminal = os.dup(_STDOUT)
    error_terminal = os.dup(_STDERR)
    begin = os.fstat(log_descriptor).st_size
    with os.fdopen(os.dup(terminal), "w", encoding="utf-8", errors="replace") as screen:
        console = Console(file=screen, width=_terminal_width(terminal))
        os.dup2(log_descriptor, _STDOUT)
        os.dup2(log_descriptor, _STDERR)
        try:
            yield console
        except Exception as error:
            cause = remote_cause(error)
            if (full := why_full(error, log.parent, sure=False)) is not None:
                cause = DiskFull(full)
            _flush()
            telling = [] if isinstance(cause, CtwaError) else _telling_lines(log, begin)
            where = without_secrets("".join(traceback.format_exception(error)))
            with contextlib.suppress(OSError):  # the log may be on the very disk that is full
                os.write(log_descriptor, where.encode(errors="replace"))
            message = [*_message(cause, telling, log), *([] if how_to_go_on is None else [(how_to_go_on(), "")])]
            for line, style in message:
                console.print(Text(line, style), soft_wrap=True, highlight=False)
            raise RunFailed(f"{type(cause).__name__}: {cause}") from error
        finally:
            if not _flush():
                # The log takes no more: what is left in the buffers is not for the terminal.
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), _STDOUT)
                    os.dup2(nowhere.fileno(), _STDERR)
                    _flush()
            os.dup2(terminal, _STDOUT)
            os.dup2(error_terminal, _STDERR)
            for descriptor in (terminal, error_terminal, log_descriptor):
                os.close(descriptor)


def _flush() -> bool:
    """Empties the buffers of Python and of C, so that nothing written before a switch lands behind it.

    Returns:
        Whether what they are written to took it all.
    """
    could = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            could = False
    return ctypes.CDLL(None).fflush(None) == 0 and could


def _terminal_width(descriptor: int) -> int | None:
    """Rich would ask the descriptors 0 to 2, two of which no longer are the terminal."""
    return os.get_terminal_size(descriptor).columns if os.isatty(descriptor) else None


def remote_cause(error: BaseException) -> BaseException:
    """The error itself; of one that Ray brought from another process the one raised there, which Ray calls `cause`."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error


def _telling_lines(log: Path, begin: int) -> list[str]:
    """The last lines since `begin` that speak of an error and not of a warning, each once, or else the last lines."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - _TAIL_BYTES))
        text = _ESCAPE.sub("", file.read().decode(errors="replace"))
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line) and not _NOISE.search(line)]
    # Every rank says the same, and the last to say it is the nearest to the end.
    return list(dict.fromkeys(reversed(telling or lines)))[:_TAIL_LINES][::-1]


def _message(error: BaseException, telling: list[str], log: Path) -> Iterator[tuple[str, str]]:
    first, *more = without_secrets(str(error)).strip().splitlines() or [""]
    if isinstance(error, CtwaError):
        yield f"error: {clean(first)}", "bold red"
    else:
        yield f"error: the run stopped: {type(error).__name__}: {clean(first)}", "bold red"
        more = more[:_TAIL_LINES]
    for line in more:
        yield f"  {clean(line)}", ""
    for line in telling:
        yield f"  | {clean(line)}", "dim"
    yield f"the whole log: {log}", ""
