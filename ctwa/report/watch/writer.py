"""Whether a process on this machine writes a run's files."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_PROCESSES = Path("/proc")  # Linux; elsewhere no writer is ever found
_PAUSE = 2.0  # s between two searches
_SHARE = 100  # a search may take this part of the time between two


class WriterSearch:
    """Looks for a process that has one of the files open for writing.

    A process of another user or another machine is not seen: finding none does not mean that there is none.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths
        self._descriptor: Path | None = None  # of the writer found last
        self._next_search = 0.0
        #: whether there has been one
        self.seen = False

    def found(self) -> bool:
        """Whether there is one now, or was at the last search a moment ago."""
        files = dict(_identities(self._paths))
        if self._descriptor and _identity(self._descriptor) in files.values():
            return True
        now = time.monotonic()
        if now >= self._next_search:
            self._descriptor = next(_writers(files), None)
            took = time.monotonic() - now
            self._next_search = now + max(_PAUSE, _SHARE * took)
            self.seen = self.seen or self._descriptor is not None
            return self._descriptor is not None
        return False


def _identities(paths: Sequence[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    for path in paths:
        if identity := _identity(path):
            yield path.name, identity


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # it is gone, or not ours to look at
        return None
    return status.st_dev, status.st_ino


def _writers(files: dict[str, tuple[int, int]]) -> Iterator[Path]:
    """The descriptors, of any process, by which one of the files is written. Files are told by name first: asking what
    is behind a descriptor can take long where it is on another machine.
    """
    for process in _PROCESSES.glob("[0-9]*"):
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # ended meanwhile, or another user's
            continue
        for descriptor in descriptors:
            try:
                name = Path(os.readlink(descriptor)).name
                if name in files and _identity(descriptor) == files[name] and _is_for_writing(process, descriptor):
                    yield descriptor
            except OSError:  # closed meanwhile
                continue


def _is_for_writing(process: Path, descriptor: Path) -> bool:
    fields = (process / "fdinfo" / descriptor.name).read_text().split()
    flags = int(fields[fields.index("flags:") + 1], base=8)
    return flags & os.O_ACCMODE != os.O_RDONLY
