"""The transfer queue's sockets let in the processes of the run, and nobody else.

TransferQueue listens on TCP and unpickles what it is sent: whoever reaches one of its sockets runs code. All of them
are opened by one function of its own, in whose place this module puts `open_closed_socket`, which does the same and
then closes the socket by CurveZMQ (RFC 26): encrypted, and for holders of the run's key pair only. There is one pair a
run, which both ends of a connection have; Ray's key-value store, behind Ray's token, hands it to the processes of the
job.

CURVE rather than Unix sockets in a private folder: it serves one node and several alike, and the queue knows no
addresses but TCP's.

Every process of the run that opens such a socket imports this module first: those of verl by `ctwa.engine.verl.plugin`,
the queue's own actors because Ray ships their class by value, and with it the name of the function put in place. Should
one ever miss it, `check_closed` stops the run at its start.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakSet

import ray
import zmq
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from transfer_queue.utils import zmq_utils
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from ctwa.errors import CtwaError

FACTORY = "create_zmq_socket"
"""The queue's function that opens its sockets, under the name by which its modules know it."""
STORE = "ctwa"
"""The namespace of Ray's key-value store."""
KNOCK_SECONDS = 30
"""How long a socket may take to turn a stranger away."""

_open_socket = getattr(zmq_utils, FACTORY)
_guarded: WeakSet[zmq.Context[Any]] = WeakSet()


class KeyPair(NamedTuple):
    """CURVE keys in Z85, 40 characters each."""

    public: bytes
    secret: bytes


def share_keys() -> KeyPair:
    """Make the key pair of this Ray job, and lay it where all of its processes find it."""
    keys = KeyPair(*zmq.curve_keypair())
    job = ray.get_runtime_context().get_job_id()
    _internal_kv_put(_name_of(job), keys.secret, namespace=STORE)
    _keys_of.cache_clear()  # the first job of every cluster has the same name
    return keys


def run_keys() -> KeyPair:
    """The key pair of the job that this process belongs to.

    Raises:
        RuntimeError: there is none.
    """
    return _keys_of(ray.get_runtime_context().get_job_id())


@cache
def _keys_of(job: str) -> KeyPair:
    secret = _internal_kv_get(_name_of(job), namespace=STORE)
    if secret is None:
        raise RuntimeError(f"job {job} has no key of its transfer queue, and without one no socket is opened")
    return KeyPair(zmq.curve_public(secret), secret)


def _name_of(job: str) -> str:
    return f"transfer_queue/{job}"


def open_closed_socket(
    ctx: zmq.Context[Any], socket_type: int, ip: str, identity: bytes | None = None
) -> zmq.Socket[Any]:
    """Open a socket of the queue, as the function does in whose place this stands, for holders of the run's keys.

    Args:
        ctx: the context it belongs to.
        socket_type: a ROUTER serves; all others connect to one.
        ip: its node's address.
        identity: its name.

    Raises:
        RuntimeError: this process has no keys.
    """
    keys = run_keys()
    socket: zmq.Socket[Any] = _open_socket(ctx, socket_type, ip, identity)
    socket.curve_publickey, socket.curve_secretkey = keys
    if socket_type != zmq.ROUTER:
        socket.curve_serverkey = keys.public
        return socket
    socket.curve_server = True
    # Without a domain that is enforced, a context whose guard is missing would let in whoever knows the public key.
    socket.zap_domain = b"ctwa"
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    _guard(ctx, keys)
    return socket


def _guard(context: zmq.Context[Any], keys: KeyPair) -> None:
    """See to it that somebody in this context answers who may come in."""
    if context in _guarded:
        return
    # pyzmq's own guard keeps sockets open that the queue, which ends its context, would wait for.
    questions = context.socket(zmq.REP, socket_class=zmq.Socket)
    questions.linger = 0
    questions.bind("inproc://zeromq.zap.01")
    threading.Thread(target=_answer, args=(questions, z85.decode(keys.public)), daemon=True, name="ctwa-zap").start()
    _guarded.add(context)


def _answer(questions: zmq.Socket[bytes], public_key: bytes) -> None:
    """Answer who may come in (RFC 27), until the context ends: the one who has proved to hold the run's key."""
    with questions:
        try:
            while True:
                version, request, _domain, _address, _identity, mechanism, *credentials = questions.recv_multipart()
                admitted = mechanism == b"CURVE" and credentials == [public_key]
                status = [b"200", b"OK"] if admitted else [b"400", b"not a process of the run"]
                questions.send_multipart([version, request, *status, b"", b""])
        except zmq.ContextTerminated:
            return


def _put_in_place() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "transfer_queue" and getattr(module, FACTORY, None) is _open_socket:
            setattr(module, FACTORY, open_closed_socket)


_put_in_place()


def check_closed(addresses: Iterable[str], keys: KeyPair) -> None:
    """Knock at every address without a key, and with one that is not the run's.

    Args:
        addresses: of sockets of the queue.
        keys: the run's.

    Raises:
        CtwaError: one let a stranger in, or did not answer.
    """
    with zmq.Context() as context:
        for address in addresses:
            for stranger in (None, KeyPair(*zmq.curve_keypair())):
                if _lets_in(context, address, stranger, keys.public):
                    raise CtwaError(
                        f"the transfer queue's socket {address} lets in whoever reaches it: use the versions of "
                        "TransferQueue and Ray that pyproject.toml names"
                    )


def _lets_in(context: zmq.Context[Any], address: str, stranger: KeyPair | None, server_key: bytes) -> bool:
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        if stranger is not None:
            socket.curve_publickey, socket.curve_secretkey = stranger
            socket.curve_serverkey = server_key
        failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        failed |= zmq.EVENT_HANDSHAKE_FAILED_AUTH
        with socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | failed) as events:
            socket.connect(address)
            answered = events.poll(KNOCK_SECONDS * 1000)
            event = recv_monitor_message(events)["event"] if answered else None
            socket.disable_monitor()
    if event is None:
        raise CtwaError(f"the transfer queue's socket {address} did not answer within {KNOCK_SECONDS} s")
    return bool(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
