"""An endpoint in this process that may be slow, busy, broken or talk nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


def completion(content: Any, finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    """What an endpoint answers."""
    message = {"role": "assistant", "content": content, **message}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


class Server:
    """An endpoint whose answers a test decides: `reply(body, attempt)` gives a status and a body."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any], int], tuple[int, Any]] = lambda _body, _attempt: (200, "[[tie]]")
        self.headers: dict[str, str] = {"retry-after": "0"}
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.released = threading.Event()
        lock, attempts, server = threading.Lock(), {}, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    server.requests.append(body)
                    server.authorizations.append(self.headers["authorization"])
                    key = json.dumps(body)
                    attempts[key] = attempt = attempts.get(key, 0) + 1
                status, answer = server.reply(body, attempt)
                if status == 200 and isinstance(answer, str):
                    answer = completion(answer)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client that did not wait
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
