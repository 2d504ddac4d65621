"""Where a person's server is, and with which key."""

import re
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from runstream.domain.errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8000"
_DEV_KEY = Path(".runstream/key")
"""Where `runstream dev` keeps the key that it made."""
_KEY = re.compile(r"[\x21-\x7e]+")


def checked_url(url: str) -> str:
    """Raises ConfigurationError."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isprintable():
        raise ConfigurationError(f"RUNSTREAM_URL, or --url, is to be a URL such as {DEFAULT_URL}.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError("RUNSTREAM_URL, or --url, is to be an address alone, without a password or a query.")
    return url.strip().rstrip("/")


def checked_key(url: str, key: str | None) -> str:
    """The key that was given, else dev's; the latter is for servers of this machine only. Raises ConfigurationError."""
    key = (key or "").strip() or (_dev_key() if is_local(url) else None)
    if not key:
        raise ConfigurationError(
            "There is no API key: set RUNSTREAM_KEY, or call this from the directory that `runstream dev` runs in."
        )
    if not _KEY.fullmatch(key):
        raise ConfigurationError("RUNSTREAM_KEY, or --key, is no API key: those begin with 'rs_'.")
    return key


def is_local(url: str) -> bool:
    """Whether the server is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _dev_key() -> str | None:
    try:
        return _DEV_KEY.read_text().strip()
    except (OSError, UnicodeError):
        return None
