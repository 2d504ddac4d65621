"""Origins that may be given leave are told from what would never match, when a process starts."""

import json

import pytest

from runstream.domain.errors import ConfigurationError
from runstream.settings import load


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com", "http://localhost:5173", "http://127.0.0.1:8080", "https://[::1]:8443", "http://a:443"],
)
def test_an_origin_as_browsers_send_it_is_taken(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("RUNSTREAM_CORS_ORIGINS", json.dumps([origin]))
    assert load().cors_origins == [origin]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "",
        "app.example.com",
        "https://app.example.com/",
        "https://App.example.com",
        "https://*.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "ftp://app.example.com",
        "https://app.example.com\nhttps://other.example.com",
        "https://user@app.example.com",
    ],
)
def test_what_no_browser_sends_is_refused(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("RUNSTREAM_CORS_ORIGINS", json.dumps([origin]))
    with pytest.raises(ConfigurationError, match=r"RUNSTREAM_CORS_ORIGINS at 0: It is no origin as browsers send it"):
        load()
