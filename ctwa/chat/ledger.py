"""What all processes of a machine together may ask of an endpoint, and what they have asked: a folder on disk."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctwa.chat.replies import Reply

MINUTE = 60.0


class ReplyFolder:
    """Replies, each a file that is named by its request: any number of processes may read and write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply to a request; None where there is none yet, or none that can be read, as after a full disk."""
        try:
            kept = json.loads(self._path(key).read_bytes())
            return Reply(kept["text"], kept["flaw"])
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; the file appears complete or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(json.dumps({"text": reply.text, "flaw": reply.flaw}).encode())
        os.replace(file.name, path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


class Ledger:
    """Counts requests, tokens and costs in `usage.json`, and keeps to limits a minute.

    Args:
        folder: of the file; it is made.
        requests_per_minute, tokens_per_minute: of all processes together; None for no limit.
        prices: of a million tokens asked and of a million written, in whatever currency.
    """

    def __init__(
        self,
        folder: Path,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        prices: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "usage.json"
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._prices = prices

    async def admit(self, tokens: int) -> None:
        """Wait until another request of about so many tokens may be sent."""
        while (wait := self._take({"requests": 1.0, "tokens": float(tokens)})) > 0:
            await asyncio.sleep(wait)

    def note(self, reply: Reply, estimate: int = 0) -> None:
        """Count a request that was sent, and what its tokens were beside the estimate that it was admitted with."""
        asked, written = reply.tokens
        with self._held() as usage:
            usage["requests"] = usage.get("requests", 0) + 1
            usage["prompt_tokens"] = usage.get("prompt_tokens", 0) + asked
            usage["completion_tokens"] = usage.get("completion_tokens", 0) + written
            cost = (asked * self._prices[0] + written * self._prices[1]) / 1e6
            usage["cost"] = usage.get("cost", 0.0) + cost
            if asked + written and "tokens" in (left := usage.get("left", {})):
                left["tokens"] += estimate - asked - written

    def _take(self, wanted: dict[str, float]) -> float:
        """Seconds until there is enough left of each limit; 0 where it was taken.

        Both fill up evenly and hold a minute's worth. A request above that may go when all of it is there.
        """
        limits = {name: limit for name, limit in self._limits.items() if limit is not None}
        if not limits:
            return 0.0
        with self._held() as usage:
            now = time.time()
            since = max(0.0, now - usage.get("at", 0.0))
            left = usage.setdefault("left", {})
            wait = 0.0
            for name, limit in limits.items():
                left[name] = min(limit, left.get(name, limit) + limit * since / MINUTE)
                wait = max(wait, (min(wanted[name], limit) - left[name]) * MINUTE / limit)
            if wait <= 0:
                for name in limits:
                    left[name] -= wanted[name]
            usage["at"] = now
        return max(wait, 0.0)

    @contextmanager
    def _held(self) -> Iterator[dict[str, Any]]:
        """What is counted, for this process alone."""
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            usage = json.loads(content) if content else {}
            yield usage
            file.truncate(0)
            file.write(json.dumps(usage).encode())
