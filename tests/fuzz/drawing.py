"""Values that a JSON schema allows, and values that hardly any does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

_DEEP = 6
"""Below, only what must be there is drawn."""

_OF_ID = re.compile(r"\^([a-z]+)_")
_TIMES = ("2020-01-01T00:00:00Z", "2026-11-01T12:00:00+05:30", "2031-12-31T23:59:59.5Z")

Named = Mapping[str, Callable[[], Any]]
"""Where a property of this name is, this is drawn: what the schema cannot say, such as which models there are."""
BY_SCHEMA = object()
"""What is drawn for a name where it is to be by its schema after all."""


class Drawing:
    def __init__(
        self,
        document: Mapping[str, Any],
        random: Random,
        named: Named,
        *,
        text: Callable[[], str],
        id: Callable[[str], str],
    ) -> None:
        """`text` begins what is drawn where any is allowed; `id` gives one that begins so."""
        self._document = document
        self._random = random
        self._named = named
        self._text = text
        self._id = id

    def value(self, schema: Mapping[str, Any], name: str = "", depth: int = 0) -> Any:
        """What the schema allows, or nearly: patterns and formats of strings are for `named`."""
        if name in self._named and (drawn := self._named[name]()) is not BY_SCHEMA:
            return drawn
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return self.value(self._random.choice(choices), name, depth)
        return self._of_type(schema, depth)

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        match schema.get("type"):
            case "object":
                drawn: Any = self._object(schema, depth)
            case "array":
                drawn = self._array(schema, depth)
            case "integer" | "number":
                drawn = self._number(schema)
            case "boolean":
                drawn = self._random.random() < 0.5
            case "null":
                drawn = None
            case "string":
                drawn = self._string(schema)
            case _:
                drawn = self._random.choice([None, 1, "any", [], {}])
        return drawn

    def spoilt(self, value: Any) -> Any:
        """With something in it that is not meant to be there, or not there."""
        random = self._random
        if isinstance(value, dict) and value and random.random() < 0.85:
            name = random.choice(list(value))
            what = random.random()
            if what < 0.1:
                return {each: value[each] for each in value if each != name}
            if what < 0.2:
                return {**value, self.nasty_text(): self.nasty()}
            return {**value, name: self.spoilt(value[name])}
        if isinstance(value, list) and value and random.random() < 0.8:
            place = random.randrange(len(value))
            if random.random() < 0.1:
                return value * random.choice([2, 50])
            return [*value[:place], self.spoilt(value[place]), *value[place + 1 :]]
        return self.nasty()

    def nasty(self) -> Any:
        deep: Any = []
        for _ in range(self._random.choice([20, 400])):
            deep = [deep]
        return self._random.choice(
            [
                *(
                    None,
                    True,
                    False,
                    0,
                    -1,
                    1.5,
                    2**31,
                    2**63,
                    -(2**63) - 1,
                    10**400,
                    1e308,
                    -0.0,
                    [],
                    {},
                    [[]],
                    [None],
                ),
                *(float("nan"), float("inf"), deep, {"": ""}, {"\0": 1}, {"__proto__": {}}, [1] * 5000),
                *(self.nasty_text() for _ in range(10)),
            ]
        )

    def nasty_text(self) -> str:
        return self._random.choice(
            [
                *("", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "😀" * 70, "a" * 300, "a" * 100_000, "\u202eabc"),
                *("\r\n", "\r\nX-Injected: 1", "é", "ﬃ" * 40, "null", "NaN", "1e999", "-1", "0x10", "%00", "%ff", "'"),
                *(
                    "' or 1=1 --",
                    "${7*7}",
                    "{{7*7}}",
                    "../../etc/passwd",
                    "<script>",
                    "\x1b[2J",
                    "0001-01-01T00:00:00Z",
                ),
                *(
                    "9999-12-31T23:59:59.999999+14:00",
                    "2026-02-30T00:00:00Z",
                    "*",
                    "_",
                    "%",
                    "\\",
                    '"',
                    "\ufeff",
                    "\x7f",
                ),
            ]
        )

    def written(self, value: Any) -> bytes:
        """As JSON, in one of its forms."""
        text = json.dumps(value, ensure_ascii=self._random.random() < 0.5)
        return text.encode(errors="surrogatepass")

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        random = self._random
        drawn = {}
        required = schema.get("required", [])
        for name, inner in schema.get("properties", {}).items():
            if name in required or (depth <= _DEEP and random.random() < 0.3):
                drawn[name] = self.value(inner, name, depth + 1)
        more = schema.get("additionalProperties")
        if isinstance(more, Mapping):
            drawn |= {f"k{number}": self.value(more, "", depth + 1) for number in range(random.randint(0, 2))}
        return drawn

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        most = least if depth > _DEEP else max(least, min(schema.get("maxItems", 10), least + 2))
        return [self.value(schema.get("items", {}), "", depth + 1) for _ in range(self._random.randint(least, most))]

    def _number(self, schema: Mapping[str, Any]) -> float:
        low, high = schema.get("minimum", -10), schema.get("maximum", 100)
        drawn = self._random.choice([low, high, self._random.uniform(low, min(high, low + 100))])
        return int(drawn) if schema["type"] == "integer" else drawn

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "examples" in schema and self._random.random() < 0.5:
            return str(self._random.choice(schema["examples"]))
        if schema.get("format") == "date-time":
            return self._random.choice(_TIMES)
        if prefix := _OF_ID.match(schema.get("pattern", "")):
            return self._id(prefix[1])
        least = schema.get("minLength", 0)
        length = max(least, min(schema.get("maxLength", 40), self._random.randint(least, least + 40)))
        return f"{self._text()} {'lorem ipsum ' * 8}"[:length]

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in schema:
            return schema
        found: Any = self._document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        resolved: Mapping[str, Any] = found
        return resolved
