"""The Ray of a run takes orders from its user, and from nobody else.

What Ray does by itself: a cluster that ``ray.init`` starts listens on the machine's outer address and asks for a token,
which lies in a file that all can read; its folder in /tmp is writable for all; and a run that is given no address joins
the cluster that a file in that folder names, whoever wrote it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError
from ctwa.run.origin import make_secret

TRUST = "ctwa.trust_network=true"
"""What a user writes who knows that nobody else reaches the machines' ports."""
HOW_TO_ASK = (
    f"set RAY_AUTH_MODE=token before Ray starts, on every node (docs/cluster.md), or write {TRUST} where nobody else "
    "reaches these machines' ports or logs in to them"
)


def close_to_others(ray_init: dict[str, Any], *, trust_network: bool) -> None:
    """Say in the arguments of ``ray.init``, and in the environment, what keeps others out.

    Args:
        ray_init: changed in place.
        trust_network: whether a Ray that asks for no token will do.

    Raises:
        CtwaError: Ray would ask for no token, or its files cannot be kept from others.
    """
    # Said outright, for Ray would look for the address in a file that anyone may have written.
    address = ray_init["address"] = address_of(ray_init)
    if not trust_network:
        _check_open(address)
    if address != "local":
        return
    from ray._common.utils import get_default_system_temp_dir

    _listen_on_loopback()
    try:
        _keep_token_private()
        ray_init.setdefault("_temp_dir", str(private_folder(Path(get_default_system_temp_dir())) / "ray"))
    except OSError as error:
        raise CtwaError(
            f"the files of Ray cannot be kept from other users of this machine ({error}): name others of your own, the "
            "token's by RAY_AUTH_TOKEN_PATH, the folder of logs and sockets by RAY_TMPDIR"
        ) from error


def address_of(ray_init: Mapping[str, Any]) -> str:
    """The Ray that a run joins; ``local`` where it starts one of its own."""
    return str(ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "local")


def check_auth_mode() -> None:
    """See that a cluster which is started here asks for a token, by this environment.

    Raises:
        CtwaError: it would not.
    """
    if (mode := os.environ.get("RAY_AUTH_MODE", "token")).lower() != "token":
        raise CtwaError(f"RAY_AUTH_MODE={mode}: whoever reaches this Ray can run code as you; {HOW_TO_ASK}")


def _check_open(address: str) -> None:
    """A cluster of our own asks as this environment says; of another one, only trying tells."""
    if address == "local":
        check_auth_mode()
    elif not asks_for_token(address):
        raise CtwaError(f"the Ray at {address} asks for no token: whoever reaches it can run code as you; {HOW_TO_ASK}")


ASK = """
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=canonicalize_bootstrap_address_or_die(sys.argv[1])).internal_kv_keys(b"", None)
except AuthenticationError:
    print("refused")
else:
    print("served")
"""
"""Python that asks a Ray cluster for something; in a process of its own, for Ray reads once whether it has a token."""


def asks_for_token(address: str) -> bool:
    """Whether a Ray cluster refuses a process that brings no token.

    Args:
        address: of its first node, with the port; ``auto`` for the one that was last started here.

    Raises:
        CtwaError: it does not answer.
    """
    asked = subprocess.run(
        [sys.executable, "-c", ASK, address],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        raise CtwaError(f"the Ray at {address} does not answer ({reason}): give the address of one that runs")
    return asked.stdout.split()[-1] == "refused"


def _listen_on_loopback() -> None:
    """Ray's switch for the systems where it knows one node only: there it listens on loopback.

    It is read while Ray is imported, which has happened here, and will in the processes that are started.
    """
    from ray._private import ray_constants

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _keep_token_private() -> None:
    """Make the token's file before Ray does, for the user's eyes only; close the one that is there."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    make_secret(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def private_folder(place: Path) -> Path:
    """A folder that only this user may enter.

    Args:
        place: where it is to be.

    Raises:
        PermissionError: somebody else made it.
    """
    folder = place / f"ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else")
    folder.chmod(0o700)
    return folder
