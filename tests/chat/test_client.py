"""What is refused of a key and of the environment before an endpoint is asked."""

from __future__ import annotations

import pytest

from ctwa.chat.client import check_endpoint, endpoint
from ctwa.errors import CtwaError

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize("key", ["schlüssel", "half\nof", "tab\tbed", "\x7f"])
def test_a_key_that_no_header_can_send_is_refused_and_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", key)

    with pytest.raises(CtwaError, match="names THE_KEY, which holds a line break or a letter outside ASCII") as error:
        check_endpoint(endpoint(URL, "THE_KEY"))
    assert key not in str(error.value)


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", " sk-1234\r\n")

    check_endpoint(endpoint(URL, "THE_KEY"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "ftp://me:secret@proxy:1"),
        ("HTTPS_PROXY", "http://me:secret@proxy:port"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_an_environment_that_no_client_can_use_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    check_endpoint(endpoint(URL))
    monkeypatch.setenv(name, value)

    with pytest.raises(CtwaError, match=f"the scorer cannot be asked with what the environment .*{name}") as error:
        check_endpoint(endpoint(URL), "scorer")
    assert "secret" not in str(error.value)
