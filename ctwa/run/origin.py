"""Who began a run: a mark of its configuration that only a key of the user's own can make.

A folder that somebody else made, or changed, has none that holds: what its configuration names is not run unasked.
"""

from __future__ import annotations

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile


def mark(config: bytes) -> str | None:
    """The user's mark of a configuration, in hexadecimal digits; None where there can be no key."""
    try:
        key = _key()
    except OSError:  # a home that cannot be written
        return None
    return hmac.digest(key, config, "sha256").hex()


def _key() -> bytes:
    """The user's key, made at its first use, for nobody else to read."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "ctwa" / "key"
    make_secret(path)
    return path.read_bytes()


def make_secret(path: Path) -> None:
    """Make a file with a random word that only its user can read; one that is there stays."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent) as new:  # 0600; and never there half written
        new.write(secrets.token_hex(32))
        new.flush()
        with suppress(FileExistsError):  # another run's, of this moment
            os.link(new.name, path)
