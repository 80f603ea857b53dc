"""A scorer behind a URL: a reward model that is served, a service of one's own."""

import math
from functools import lru_cache
from typing import Any

from ctwa.chat.client import EndpointConfig, Poster, check_endpoint, endpoint


async def remote_score(
    response: str,
    prompt: str,
    data_source: str,
    extra_info: dict[str, Any],
    url: str,
    ground_truth: Any = None,
    api_key_env: str | None = None,
    concurrency: int = 16,
    request_timeout: float = 10.0,
    max_attempts: int = 3,
) -> float | None:
    """What a server says of the response: it is sent JSON, and answers a number, or an object with `score`.

    The request is `{"prompt", "response", "ground_truth", "data_source", "extra_info"}`. A score of null leaves the
    response out, as does a server that does not answer: let the objective have `max_unscored: 1` where that is not to
    stop the run, and a `timeout` of `max_attempts * request_timeout` and more.

    Args:
        response: the response.
        prompt: its prompt.
        data_source: of the row.
        extra_info: of the row.
        url: that is posted to.
        ground_truth: of the row.
        api_key_env: the NAME of the environment variable that holds the key, sent as `Authorization: Bearer`.
        concurrency: requests under way at once, in each reward worker.
        request_timeout: seconds a request may take.
        max_attempts: how often a request is sent before it is given up.
    """
    config = endpoint(url, api_key_env, concurrency, request_timeout, max_attempts)
    body = {
        "prompt": prompt,
        "response": response,
        "ground_truth": ground_truth,
        "data_source": data_source,
        "extra_info": extra_info,
    }
    return await _poster(config.model_dump_json()).post("", body, _score)


def check_remote_score(
    url: str,
    api_key_env: str | None = None,
    concurrency: int = 16,
    request_timeout: float = 10.0,
    max_attempts: int = 3,
) -> None:
    """Refuse an address, a key or limits that cannot be used."""
    check_endpoint(endpoint(url, api_key_env, concurrency, request_timeout, max_attempts), "scorer")


def _score(answer: Any) -> float | None:
    score = answer["score"] if isinstance(answer, dict) else answer
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise TypeError(f"a score that is {score!r}")
    return float(score)


@lru_cache(maxsize=16)
def _poster(config: str) -> Poster:
    """One a process: its connections outlive a call."""
    keys = "url and api_key_env in the objective's kwargs"
    return Poster(EndpointConfig.model_validate_json(config), name="scorer", keys=keys)
