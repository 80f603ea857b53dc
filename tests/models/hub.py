"""A hub of models in this process, as far as uploading goes: what was asked of it, and the files it was given."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Hub:
    """Takes every file as it is, or refuses with a status.

    Attributes:
        status: of every answer.
        made: the models that were to be made.
        files: what was uploaded, by path.
        tokens: the authorizations of all requests.
    """

    def __init__(self) -> None:
        self.status = 200
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hub.tokens.add(self.headers["authorization"])
                answer = json.dumps(hub.answer(self.path, body)).encode()
                self.send_response(hub.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """What the hub says to a request."""
        if self.status != 200:
            return {"error": "no"}
        if path.endswith("/repos/create"):
            self.made.append(json.loads(body))
            return {"url": f"{self.address}/{self.made[-1]['organization']}/{self.made[-1]['name']}"}
        if "/preupload/" in path:
            names = [each["path"] for each in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.address}/me/mine/commit/1", "commitOid": "1"}
        return {"errors": [], "warnings": []}  # of the card's front matter

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
