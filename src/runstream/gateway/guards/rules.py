"""What texts are searched for, and what is done about it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runstream.domain.errors import ConfigurationError
from runstream.domain.findings import Action
from runstream.gateway.guards.builtin import BUILTIN, Pattern
from runstream.gateway.guards.search import Search, SearchForAll
from runstream.gateway.guards.text import Folded

OFF = "off"
_NAME = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    pattern: Pattern
    action: Action

    def strip(self, text: str) -> str:
        """The text without it, however it is written there."""
        search, folded = Search(self.pattern.expression), Folded(text)
        spans = [*search.spans(text), *folded.original(search.spans(folded.text))]
        return _without(text, sorted(spans), self.pattern.instead)


class Rules:
    def __init__(self, actions: Mapping[str, str], patterns: Mapping[str, str]) -> None:
        """`actions` by name, where they are not to flag, and `patterns` of one's own. Raises ConfigurationError."""
        known = {**BUILTIN, **{name: Pattern(expression) for name, expression in patterns.items()}}
        for name in patterns:
            if not _NAME.fullmatch(name):
                raise _wrong(f"the pattern {name!r} needs a name of a-z, 0-9 and _, of up to 64 characters")
            if name in BUILTIN:
                raise _wrong(f"there is a rule {name!r} already: give the pattern another name")
        for name in actions:
            if name not in known:
                raise _wrong(f"there is no rule {name!r}. There are: {', '.join(known)}")
        self._rules = [
            Rule(name, pattern, Action(actions.get(name, Action.FLAG)))
            for name, pattern in known.items()
            if actions.get(name) != OFF
        ]
        self._search = _together(self._rules)

    def found(self, text: str, *, applications: bool) -> Sequence[Rule]:
        """Those that the text falls under, as it stands or as a reader takes it.

        `applications` says that the application speaks, and not its user, or a tool.
        """
        places = self._search.found(text)
        if (folded := Folded(text).text) != text:
            places |= self._search.found(folded)
        found = [self._rules[place] for place in sorted(places)]
        return [rule for rule in found if rule.pattern.everywhere or not applications]


def _together(rules: Sequence[Rule]) -> SearchForAll:
    for rule in rules:
        try:
            search = Search(rule.pattern.expression)
        except ValueError as error:
            raise _wrong(f"the pattern of {rule.name!r} is not one that RE2 takes: {error}") from None
        if search.spans(""):
            raise _wrong(f"the pattern of {rule.name!r} fits an empty text, and so any")
    try:
        return SearchForAll(rule.pattern.expression for rule in rules)
    except ValueError as error:
        raise _wrong(f"as for the patterns, {error}") from None


def _without(text: str, spans: Sequence[tuple[int, int]], instead: str) -> str:
    """Spans that overlap are one."""
    kept: list[str] = []
    end = 0
    for start, stop in spans:
        if stop <= end:
            continue
        if start >= end:
            kept += (text[end:start], instead)
        end = stop
    return "".join((*kept, text[end:]))


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"RUNSTREAM_GUARDS: {what}.")
