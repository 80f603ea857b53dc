"""Asks an HTTP endpoint, a few requests at a time, with attempts ever further apart."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Protocol, Self, TypeVar

import httpx
from pydantic import AfterValidator, Field, field_validator
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ctwa.chat.replies import Reply, read_reply
from ctwa.errors import CtwaError, without_secrets
from ctwa.run.cache import digest
from ctwa.strict import StrictModel, validated

Count = Annotated[int, Field(ge=1)]
T = TypeVar("T")
_LONGEST_WAIT = 60.0  # s between two attempts
_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
# Answers that concern one request and not all of them: too long, or refused by a filter.
_OF_ONE_REQUEST = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
_LARGEST_PORT = 65535


def _leaves_the_question(fields: dict[str, Any]) -> dict[str, Any]:
    """Further fields of a request, where JSON can say them and none takes the place of what is asked of whom."""
    for name in ("messages", "model"):
        if name in fields:
            raise ValueError(f"{name} is no further field, it is what is asked: leave it out")
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"JSON cannot say it ({error}): write texts (a date in quotes), finite numbers, true, false, null, lists "
            "and sections of these"
        ) from None
    return fields


ExtraBody = Annotated[dict[str, Any], AfterValidator(_leaves_the_question)]
"""Further fields of every request to a language model; None leaves out one that it has by default."""


class EndpointConfig(StrictModel):
    """How an endpoint is asked.

    Attributes:
        base_url: what stands before `/chat/completions`.
        api_key_env: the NAME of the environment variable that holds the key; None where none is needed.
        concurrency: requests under way at once.
        timeout: seconds a request may take.
        max_attempts: how often a request is sent before it is given up.
    """

    base_url: str
    api_key_env: str | None = None
    concurrency: Count = 8
    timeout: Annotated[float, Field(gt=0)] = 60.0
    max_attempts: Count = 8

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
            raise ValueError(
                "write http:// or https://, a host and a path, and no user, password or query in it, e.g. "
                "https://api.openai.com/v1"
            )
        try:
            port = httpx.URL(url).port
        except httpx.InvalidURL as error:
            raise ValueError(f"it is no address ({error}); write one such as http://localhost:8000/v1") from None
        if port is not None and not 0 < port <= _LARGEST_PORT:
            raise ValueError(f"there is no port {port}; write one from 1 to {_LARGEST_PORT}")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):  # and the message repeats no key
            raise ValueError(
                "write the NAME of an environment variable, in capitals, e.g. OPENAI_API_KEY, and not the key itself"
            )
        return name


def endpoint(
    url: str,
    api_key_env: str | None = None,
    concurrency: int = 8,
    timeout: float = 60.0,
    max_attempts: int = 8,
) -> EndpointConfig:
    """An endpoint's configuration.

    Raises:
        CtwaError: what cannot be.
    """
    given = {
        "base_url": url,
        "api_key_env": api_key_env,
        "concurrency": concurrency,
        "timeout": timeout,
        "max_attempts": max_attempts,
    }
    config: EndpointConfig = validated(EndpointConfig, given, under="endpoint")
    return config


class Unreachable(CtwaError):
    """An endpoint did not answer after all attempts."""


class Refused(Exception):
    """An endpoint refuses one request, and would not refuse another: what it said."""


class _TryAgain(Exception):
    """What may pass: the server is busy, broken, silent or says what no such server says."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait  # s, by the server's own word


class Poster:
    """Sends JSON to an endpoint, as often as it takes; an async context manager.

    Args:
        config: how.
        name: of the endpoint in messages: `judge`.
        keys: of the configuration that are to be checked where the endpoint refuses, for the message.
    """

    def __init__(self, config: EndpointConfig, *, name: str, keys: str) -> None:
        self.config = config
        self._name = name
        self._keys = keys
        self._key = api_key(config, name)
        self._http = _http_client(config, self._key, name)
        self._slots = asyncio.Semaphore(config.concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """The answer to a request.

        Args:
            path: behind the base URL.
            body: of the request.
            read: of an answer's JSON what is wanted of it; a LookupError, TypeError, ValueError or AttributeError says
                that this is no answer.

        Raises:
            Unreachable: there was none after all attempts.
            Refused: the endpoint refuses this one.
            CtwaError: it refuses all.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgain),
            stop=stop_after_attempt(self.config.max_attempts),
            wait=_wait,
            reraise=True,
        )
        async with self._slots:
            try:
                answer: T = await retrying(self._ask, path, body, read)
            except _TryAgain as error:
                raise Unreachable(
                    f"the {self._name} at {self.config.base_url} did not answer in {self.config.max_attempts} "
                    f"attempts, at last: {error}"
                ) from None
        return answer

    async def _ask(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        try:
            async with asyncio.timeout(self.config.timeout):  # of all of it: httpx's is of each piece
                response = await self._http.post(f"{self.config.base_url}{path}", content=_encoded(body))
        except (TimeoutError, httpx.TimeoutException):
            raise _TryAgain(f"no answer within {self.config.timeout:g} s") from None
        except httpx.RequestError as error:  # of the connection, or an answer that cannot be unpacked
            raise _TryAgain(self.without_key(f"{type(error).__name__}: {error}")) from None
        text = self.without_key(" ".join(response.text.split())[:300])
        status = response.status_code
        if status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TryAgain(f"status {status}: {text}", _asked_to_wait(response))
        if status in _OF_ONE_REQUEST:
            raise Refused(f"status {status}: {text}")
        if status != HTTPStatus.OK:
            raise CtwaError(
                f"the {self._name} at {self.config.base_url} refuses: status {status}: {text}; check {self._keys}"
            )
        try:
            return read(response.json())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _TryAgain(f"what is no answer: {text}") from None

    def without_key(self, text: str) -> str:
        """A text in which a key is none: servers repeat a wrong one in their complaint."""
        return text.replace(self._key, "[key]") if self._key else text


class Replies(Protocol):
    """Replies that are kept, by their requests."""

    def get(self, key: str) -> Reply | None:
        """The reply to a request; None where there is none yet."""

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply."""


class Client(Poster):
    """Asks a language model, and keeps its replies."""

    def __init__(self, config: EndpointConfig, cache: Replies, *, name: str = "judge", keys: str) -> None:
        super().__init__(config, name=name, keys=keys)
        self._cache = cache

    async def answer(self, body: Mapping[str, Any]) -> Reply:
        """The reply to a request, from the cache where it is there.

        Raises:
            Unreachable: the server does not answer after all attempts.
            CtwaError: it refuses us altogether.
        """
        key = digest([self.config.base_url, body])
        known = self._cache.get(key)
        if known is not None:
            return known
        try:
            reply = await self.post("/chat/completions", body, self._read)
        except Refused as error:
            return Reply(str(error), refused=True)
        self._cache.put(key, reply)
        return reply

    def _read(self, answer: Any) -> Reply:
        reply = read_reply(answer)
        return Reply(self.without_key(reply.text), reply.flaw, tokens=reply.tokens)


def api_key(config: EndpointConfig, name: str = "judge") -> str | None:
    """The key from the environment.

    Raises:
        CtwaError: the variable is not set, or holds what no key is.
    """
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise CtwaError(
            f"{name}.api_key_env names {config.api_key_env}, which is not set; set it to the key, or leave api_key_env "
            "out"
        )
    if not (key.isascii() and key.isprintable()):  # which no header can send; the message does not repeat it
        raise CtwaError(
            f"{name}.api_key_env names {config.api_key_env}, which holds a line break or a letter outside ASCII, as no "
            "key has: set it to the key alone"
        )
    return key


def check_endpoint(config: EndpointConfig, name: str = "judge") -> None:
    """See that an endpoint could be asked from here, without asking it.

    Raises:
        CtwaError: the key cannot be used, or what the environment says of proxies and certificates.
    """
    _http_client(config, api_key(config, name), name)


def _http_client(config: EndpointConfig, key: str | None, name: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers["Content-Type"] = "application/json"
    try:
        return httpx.AsyncClient(headers=headers, timeout=config.timeout)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:  # a proxy or certificates that are not there
        text = without_secrets(" ".join(str(error).split()))
        raise CtwaError(
            f"the {name} cannot be asked with what the environment says of proxies and certificates ({text}): set "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR right, or unset them"
        ) from None


def _encoded(body: Mapping[str, Any]) -> bytes:
    """JSON, with a question mark for half a surrogate pair, which a model can write and UTF-8 cannot say."""
    return json.dumps(dict(body), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _wait(state: RetryCallState) -> float:
    """What the server asked for, else ever longer and not all at once."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _TryAgain) and error.wait is not None:
        return min(error.wait, _LONGEST_WAIT)
    return wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT)(state)


def _asked_to_wait(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):  # or a date, which is rare
        return None
