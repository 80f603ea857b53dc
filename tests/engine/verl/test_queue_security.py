"""The transfer queue's sockets: who may in, and that none of them is opened another way."""

from __future__ import annotations

import ast
import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transfer_queue
import zmq
import zmq.asyncio
from transfer_queue.utils.zmq_utils import ZMQMessage

from ctwa.engine.verl import queue_security
from ctwa.engine.verl.queue_security import FACTORY, KeyPair, check_closed, open_closed_socket
from ctwa.errors import CtwaError
from tests.e2e.stranger import send_code

LOOPBACK = "tcp://127.0.0.1"
NO_ANSWER = 0.2

Open = Callable[..., Any]


@pytest.fixture
def run_keys(monkeypatch: pytest.MonkeyPatch) -> KeyPair:
    """The keys that this process finds, as if Ray had handed them to it."""
    keys = KeyPair(*zmq.curve_keypair())
    monkeypatch.setattr(queue_security, "run_keys", lambda: keys)
    return keys


class Server:
    """What the queue's controller and storage do: unpickle what comes in, and answer."""

    def __init__(self, open_socket: Open) -> None:
        self.context = zmq.Context()
        self.socket = open_socket(self.context, zmq.ROUTER, "127.0.0.1")
        self.address = f"{LOOPBACK}:{self.socket.bind_to_random_port(LOOPBACK)}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.context.term()  # as the queue's storage does: it waits until the last socket is closed
        self._thread.join()

    def _serve(self) -> None:
        with self.socket:
            while True:
                try:
                    identity, *frames = self.socket.recv_multipart()
                except zmq.ContextTerminated:
                    return
                try:
                    ZMQMessage.deserialize(frames)
                except TypeError:  # the attack's code has run, and is no message
                    continue
                self.socket.send_multipart([identity, b"understood"])


@pytest.fixture
def closed_server(run_keys: KeyPair) -> Iterator[Server]:
    with Server(open_closed_socket) as server:
        yield server


def ask(open_socket: Open, address: str, *, seconds: float = 10) -> bytes | None:
    """What a socket at the address answers to a message of the queue; None for no answer."""
    message = ZMQMessage.create(queue_security.zmq_utils.ZMQRequestType.HANDSHAKE, sender_id="tests", body={})
    with zmq.Context() as context, open_socket(context, zmq.DEALER, "127.0.0.1", b"TQ_STORAGE_tests") as socket:
        socket.linger = 0
        socket.connect(address)
        socket.send_multipart(message.serialize())
        return socket.recv() if socket.poll(seconds * 1000) else None


class TestClosed:
    def test_a_process_of_the_run_is_served(self, closed_server: Server) -> None:
        assert ask(open_closed_socket, closed_server.address) == b"understood"

    def test_so_is_one_that_waits_for_its_event_loop(self, closed_server: Server, run_keys: KeyPair) -> None:
        async def ask_async() -> bytes:
            with zmq.asyncio.Context() as context, open_closed_socket(context, zmq.DEALER, "127.0.0.1") as socket:
                socket.linger = 0
                socket.connect(closed_server.address)
                message = ZMQMessage.create(queue_security.zmq_utils.ZMQRequestType.HANDSHAKE, "tests", body={})
                await socket.send_multipart(message.serialize())
                return await socket.recv()

        assert asyncio.run(ask_async()) == b"understood"

    def test_a_stranger_runs_no_code(self, closed_server: Server, run_keys: KeyPair, tmp_path: Path) -> None:
        own = KeyPair(*zmq.curve_keypair())
        for number, given in enumerate(
            (
                {},
                {"keys": own},
                {"keys": own, "server_key": run_keys.public},  # which is nowhere to be read, but suppose
                {"keys": (run_keys.public, own.secret), "server_key": run_keys.public},
            )
        ):
            assert not send_code(closed_server.address, tmp_path / str(number), **given)
        assert ask(open_closed_socket, closed_server.address) == b"understood"
        assert list(tmp_path.iterdir()) == []

    def test_nor_in_a_second_socket_of_the_context(self, closed_server: Server, run_keys: KeyPair) -> None:
        """The queue's controller has two."""
        with open_closed_socket(closed_server.context, zmq.ROUTER, "127.0.0.1") as second:
            port = second.bind_to_random_port(LOOPBACK)

            check_closed([f"{LOOPBACK}:{port}"], run_keys)

    def test_without_a_guard_nobody_is_let_in(self, run_keys: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue_security, "_guard", lambda *_: None)
        stranger = KeyPair(*zmq.curve_keypair())
        with Server(open_closed_socket) as server:
            assert not send_code(server.address, Path("/nowhere"), keys=stranger, server_key=run_keys.public)
            assert not send_code(server.address, Path("/nowhere"), keys=run_keys, server_key=run_keys.public)

    def test_a_client_speaks_to_the_run_alone(self, run_keys: KeyPair) -> None:
        """It would unpickle what an impostor answers."""
        with Server(queue_security._open_socket) as impostor:
            assert ask(open_closed_socket, impostor.address, seconds=NO_ANSWER) is None

    def test_a_process_without_keys_opens_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue_security.ray, "get_runtime_context", lambda: Job())
        monkeypatch.setattr(queue_security, "_internal_kv_get", lambda *_, **__: None)
        queue_security._keys_of.cache_clear()
        with zmq.Context() as context, pytest.raises(RuntimeError, match="job 07 has no key of its transfer queue"):
            open_closed_socket(context, zmq.ROUTER, "127.0.0.1")

    def test_each_job_has_keys_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store: dict[str, bytes] = {}
        monkeypatch.setattr(queue_security.ray, "get_runtime_context", lambda: Job())
        monkeypatch.setattr(queue_security, "_internal_kv_put", lambda name, value, **_: store.update({name: value}))
        monkeypatch.setattr(queue_security, "_internal_kv_get", lambda name, **_: store[name])

        first = queue_security.share_keys()
        assert queue_security.run_keys() == first
        second = queue_security.share_keys()
        assert queue_security.run_keys() == second != first


class Job:
    def get_job_id(self) -> str:
        return "07"


class TestCheck:
    def test_closed_sockets_pass(self, closed_server: Server, run_keys: KeyPair) -> None:
        check_closed([closed_server.address], run_keys)

    def test_an_open_socket_does_not_and_would_run_code(self, run_keys: KeyPair, tmp_path: Path) -> None:
        """What the queue does by itself: here the attack is seen to work."""
        with Server(queue_security._open_socket) as server:
            assert send_code(server.address, tmp_path / "code-ran")
            assert ask(queue_security._open_socket, server.address) == b"understood"
            assert (tmp_path / "code-ran").is_dir()

            with pytest.raises(CtwaError, match=rf"{server.address} lets in whoever reaches it"):
                check_closed([server.address], run_keys)

    def test_nor_does_a_server_that_asks_for_any_key(self, run_keys: KeyPair) -> None:
        """CURVE alone proves who the server is, and not who comes."""

        def open_half_closed(*arguments: Any) -> Any:
            socket = queue_security._open_socket(*arguments)
            socket.curve_publickey, socket.curve_secretkey = run_keys
            socket.curve_server = True
            return socket

        with Server(open_half_closed) as server, pytest.raises(CtwaError, match="lets in whoever reaches it"):
            check_closed([server.address], run_keys)

    def test_a_socket_that_does_not_answer(self, run_keys: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue_security, "KNOCK_SECONDS", NO_ANSWER)
        with zmq.Context() as context, context.socket(zmq.STREAM) as mute:
            port = mute.bind_to_random_port(LOOPBACK)
            with pytest.raises(CtwaError, match="did not answer within"):
                check_closed([f"{LOOPBACK}:{port}"], run_keys)


class TestTransferQueue:
    """What this project relies on in the version of TransferQueue that is installed."""

    def test_every_module_of_it_opens_its_sockets_here(self) -> None:
        importers = {
            name: getattr(module, FACTORY)
            for name, module in sys.modules.items()
            if name.startswith("transfer_queue.") and hasattr(module, FACTORY)
        }

        assert {"transfer_queue.controller", "transfer_queue.storage.simple_storage"} <= importers.keys()
        assert set(importers.values()) == {open_closed_socket}

    def test_it_opens_none_another_way(self) -> None:
        package = Path(transfer_queue.__file__).parent
        openers = {
            f"{path.relative_to(package)}:{function.name}"
            for path in package.rglob("*.py")
            for function in ast.walk(ast.parse(path.read_text()))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in ("socket", "Socket")
            and not (isinstance(call.func.value, ast.Name) and call.func.value.id == "socket")  # the standard library's
        }

        assert openers == {f"utils/zmq_utils.py:{FACTORY}"}
