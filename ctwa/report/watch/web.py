"""The report of a run in a browser, made anew while it goes on: a small server that this machine alone can reach."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from threading import Lock

import uvicorn
from fastapi import FastAPI, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, PlainTextResponse

from ctwa.errors import CtwaError
from ctwa.report.html import make_report, page
from ctwa.report.watch.state import WatchedRun
from ctwa.report.watch.terminal import NICENESS
from ctwa.run.text import clean

HOST = "127.0.0.1"
_PAUSE = 10.0  # s between two reports, and
_SHARE = 20  # how many times the time that one takes
_LOOK = 5.0  # s between two looks of the browser
_MESSAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="{look}">'
    "<title>ctwa watch</title><p>{text}</p></html>"
)


def serve(live: LiveReport, port: int, *, say: Callable[[str], None]) -> None:
    """Serves the report of a run on this machine until Ctrl-C.

    Args:
        live: the report.
        port: where; 0 for any that is free.
        say: is told the address.

    Raises:
        CtwaError: the port is taken or not allowed.
    """
    server = uvicorn.Server(uvicorn.Config(web_app(live), log_level="warning"))
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise CtwaError(f"port {port} cannot be used ({error}): give another one, or 0 for any") from error
    os.nice(NICENESS)
    with listening:
        say(f"the report of {clean(str(live.path))}: http://{HOST}:{listening.getsockname()[1]}/ (Ctrl-C ends it)")
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return


class LiveReport:
    """The report of a run: made when it is asked for and the run has gone on, and no more often than costs little.

    Args:
        path: the run's folder.
        pause: seconds between two reports, at least.
        share: and at least so many times the time that one takes.
        look: seconds between two looks of the browser.
    """

    def __init__(self, path: Path | str, *, pause: float = _PAUSE, share: float = _SHARE, look: float = _LOOK):
        self.path = Path(path)
        self._pause = pause
        self._share = share
        self._look = look
        self._run = WatchedRun(path)
        self._lock = Lock()
        self._page = ""
        self._made = ""  # the version of it
        self._next = 0.0

    def html(self) -> str:
        """The page that `ctwa report` makes, which asks for the next; a message while the run has no result."""
        with self._lock:
            version = self._newest()
            if version != self._made and time.monotonic() >= self._next:
                began = time.monotonic()
                self._page, self._made = self._make(version), version
                self._next = began + max(self._pause, self._share * (time.monotonic() - began))
            return self._page

    def state(self) -> dict[str, str]:
        """How the run is, and the version of the report to be had now."""
        with self._lock:
            newest = self._newest()
            version = newest if time.monotonic() >= self._next else self._made
            return {"status": self._run.status().text, "version": version}

    def _newest(self) -> str:
        self._run.poll()
        return f"{self._run.step}@{self._run.reached}"

    def _make(self, version: str) -> str:
        try:
            text = page(make_report([self.path]), live=(version, self._look))
            return text.encode("utf-8", "replace").decode()  # half of a surrogate pair, which a model can write
        except CtwaError as error:  # before the first step, for one
            return _MESSAGE.format(look=self._look, text=escape(str(error)))


def web_app(live: LiveReport) -> FastAPI:
    """Answers `/`, the newest report, and `/state`, to browsers of this machine."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(GZipMiddleware, compresslevel=5)
    # A page of elsewhere whose name was made to lead here would carry that name, and must not read the report.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)

    @app.get("/")
    def report() -> HTMLResponse:
        return HTMLResponse(live.html(), headers={"Cache-Control": "no-store"})

    @app.get("/state")
    def state() -> dict[str, str]:
        return live.state()

    @app.exception_handler(CtwaError)
    def tell(_: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(f"error: {error}".encode(errors="replace").decode(), status_code=500)

    return app
