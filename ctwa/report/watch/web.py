"""The report of a run in a browser, made anew while it goes on: a small server that this machine alone can reach."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from socket import socket
from threading import Lock
from typing import Any

from ctwa.errors import CtwaError
from ctwa.report.html import make_report, page
from ctwa.report.watch.state import WatchedRun
from ctwa.report.watch.terminal import NICENESS
from ctwa.run.text import clean

HOST = "127.0.0.1"
_NAMES = {"127.0.0.1", "localhost"}
_PAUSE = 10.0  # s between two reports, and
_SHARE = 20  # how many times the time that one takes
_LOOK = 5.0  # s between two looks of the browser
_MESSAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>ctwa watch</title><p>{}</p></html>'
# The pages need what is in them and each other, and may ask for nothing else.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
    " connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


def serve(path: Path | str, port: int, *, say: Callable[[str], None]) -> None:
    """Serves the report of a run on this machine until Ctrl-C.

    Args:
        path: the run's folder.
        port: where; 0 for any that is free.
        say: is told the address.

    Raises:
        CtwaError: no run is there, or the port is taken.
    """
    with Server(LiveReport(path), port) as server:
        os.nice(NICENESS)
        say(f"the report of {clean(str(path))}: http://{HOST}:{server.server_port}/ (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class LiveReport:
    """The report of a run: made when it is asked for and the run has gone on, and no more often than costs little.

    Args:
        path: the run's folder.
        pause: seconds between two reports, at least.
        share: and at least so many times the time that one takes.
    """

    def __init__(self, path: Path | str, *, pause: float = _PAUSE, share: float = _SHARE):
        self._path = path
        self._pause = pause
        self._share = share
        self._run = WatchedRun(path)
        self._lock = Lock()
        self._page = b""
        self._made = ""  # the version of it
        self._next = 0.0

    def html(self) -> bytes:
        """The page that `ctwa report` makes, as gzip; a message while the run has no result."""
        with self._lock:
            version = self._newest()
            if version != self._made and time.monotonic() >= self._next:
                began = time.monotonic()
                self._page = gzip.compress(self._make().encode("utf-8", "replace"), compresslevel=5)
                self._made = version
                self._next = began + max(self._pause, self._share * (time.monotonic() - began))
            return self._page

    def state(self) -> dict[str, str]:
        """How the run is; the version of the report that was made last, and of the one to be had now."""
        with self._lock:
            newest = self._newest()
            version = newest if time.monotonic() >= self._next else self._made
            return {"status": self._run.status().text, "made": self._made, "version": version}

    def _newest(self) -> str:
        self._run.poll()
        return f"{self._run.step}@{self._run.reached}"

    def _make(self) -> str:
        try:
            return page(make_report([self._path]))
        except CtwaError as error:  # before the first step, for one
            return _MESSAGE.format(escape(str(error)))


class Server(ThreadingHTTPServer):
    """Answers `/`, a page that shows the newest report, `/report` and `/state`.

    Args:
        live: the report.
        port: where; 0 for any that is free.
        look: seconds between two looks of the browser.

    Raises:
        CtwaError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, live: LiveReport, port: int, *, look: float = _LOOK):
        self.live = live
        html = (files("ctwa.report.watch") / "live.html").read_text(encoding="utf-8")
        self.page = html.replace("{{ look }}", str(look)).encode()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise CtwaError(f"port {port} cannot be used ({error}): give another one, or 0 for any") from error

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Says nothing of a tab that was closed before its answer was read."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers a browser of this machine."""
        # A page of elsewhere whose name was made to lead here would carry that name, and must not read the report.
        # A browser leaves the port out where it is 80.
        if self.headers.get("Host", "").partition(":")[0] not in _NAMES:
            self._answer(403, "text/plain", b"open this page as http://127.0.0.1 or http://localhost\n")
            return
        try:
            if self.path == "/":
                self._answer(200, "text/html; charset=utf-8", self.server.page)
            elif self.path == "/report":
                self._answer(200, "text/html; charset=utf-8", self.server.live.html(), encoding="gzip")
            elif self.path == "/state":
                state = json.dumps(self.server.live.state()).encode()
                self._answer(200, "application/json", state)
            elif self.path == "/favicon.ico":
                self._answer(204, "image/x-icon", b"")
            else:
                self._answer(404, "text/plain", b"there are /, /report and /state\n")
        except CtwaError as error:
            self._answer(500, "text/plain; charset=utf-8", f"error: {error}\n".encode(errors="replace"))

    def _answer(self, code: int, kind: str, body: bytes, *, encoding: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing of a request."""
