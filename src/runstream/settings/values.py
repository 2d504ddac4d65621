"""What a setting may be: bounds of what Postgres, Redis and the clock can take, and JSON that hides nothing."""

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from ipaddress import ip_network
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from runstream.gateway.bounds import MOST
from runstream.sealing.master_keys import decoded

_LONGEST = 10 * 365 * 24 * 3600
"""Seconds that stand for any time."""
_ORIGIN = re.compile(r"(?!http://.*:80$|https://.*:443$)https?://([a-z0-9_.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?")
"""No default port and no capital letters, for browsers write neither."""
_SHORTEST_SECRET = 32
"""Bytes: https://www.rfc-editor.org/rfc/rfc7518#section-3.2"""
_DEAREST = 10_000
"""US dollars for a million tokens. The largest count of tokens that a row takes still has a cost that a row takes."""


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, object_pairs_hook=_once)
    except _Twice as error:
        raise PydanticCustomError("json", "It names {name} twice in one place: say it once", {"name": error}) from None
    except (ValueError, RecursionError) as error:
        reason = "it is too deep" if isinstance(error, RecursionError) else str(error)
        raise PydanticCustomError("json", "It takes JSON, and this is none: {reason}", {"reason": reason}) from None


class _Twice(Exception):
    """The name that an object has twice, of which JSON would take the last without a word."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(repr(next(name for name in names if names.count(name) > 1)))
    return read


def _printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("name", "It has characters that a name cannot have")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise PydanticCustomError("path", "It takes a file's path, which begins with /")
    return value


def _key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    if not key:
        raise PydanticCustomError("key", "It is empty: leave the key out where none is needed")
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise PydanticCustomError("key", "It is no key: it has spaces around it, or characters that no header takes")
    return value


def _master_key(value: SecretStr) -> SecretStr:
    try:
        decoded(value.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("master_key", "{reason}", {"reason": str(error)}) from None
    return value


def _network(value: str) -> str:
    try:
        return str(ip_network(value, strict=False))
    except ValueError:
        raise PydanticCustomError("network", "It takes addresses and networks such as 10.0.0.0/8") from None


def _origin(value: str) -> str:
    """As a browser writes it, for the two are compared letter by letter."""
    if not _ORIGIN.fullmatch(value):
        raise PydanticCustomError(
            "origin", "It is no origin as browsers send it, such as https://app.example.com or http://localhost:5173"
        )
    return value


def _shared_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < _SHORTEST_SECRET:
        raise PydanticCustomError("secret", "It is too short: HS256 takes 32 bytes or more, random ones")
    return value


def _address(value: str) -> str:
    try:
        parsed = urlsplit(value)
        usable = parsed.scheme in {"http", "https"} and bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        usable = False
    if not usable or not value.isascii() or not value.isprintable() or " " in value or parsed.username is not None:
        raise PydanticCustomError("address", "It takes a URL such as https://login.example.com/jwks.json")
    return value


FromJson = BeforeValidator(_from_json)

Seconds = Annotated[float, Field(gt=0, le=_LONGEST, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, le=_LONGEST, allow_inf_nan=False)]
"""0 for not at all."""
Count = Annotated[int, Field(ge=1, le=MOST, strict=True)]
Days = Annotated[int, Field(ge=1, le=3650, strict=True)]
Price = Annotated[Decimal, Field(ge=0, le=_DEAREST)]
Name = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_printable)]
Tenant = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Provider = Tenant
File = Annotated[str, AfterValidator(_absolute)]
"""The same for every process, wherever it was started; and a key that was put here by mistake is told to nobody."""
Network = Annotated[str, AfterValidator(_network)]
Key = Annotated[SecretStr, AfterValidator(_key)]
MasterKey = Annotated[SecretStr, AfterValidator(_master_key)]
Origin = Annotated[str, AfterValidator(_origin)]
Address = Annotated[str, AfterValidator(_address)]
SharedSecret = Annotated[SecretStr, AfterValidator(_shared_secret)]


class Part(BaseModel):
    """An object within a setting: what it does not know is refused, for it would have no effect."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        unknown = [name for name in value if name not in cls.model_fields] if isinstance(value, dict) else []
        if unknown:
            raise PydanticCustomError(
                "unknown",
                "There is no {name} here, but: {known}",
                {"name": repr(unknown[0]), "known": ", ".join(cls.model_fields)},
            )
        return value
