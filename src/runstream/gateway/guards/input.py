"""All of a prompt is looked at before a provider is asked."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from runstream.domain.errors import ContentBlocked
from runstream.domain.findings import MOST_MESSAGES, Action, Finding, Where, refusing
from runstream.domain.prompt import Prompt, images, texts
from runstream.gateway.guards.moderation import Moderation, action_on
from runstream.gateway.guards.rules import Rules
from runstream.gateway.guards.text import normalized

NORMAL_FORM = "nfc"
"""The finding that a text was not in Unicode's normal form C, and now is."""
_AT_ONCE = 20_000
"""Characters that are looked at in less than 5 ms. What is more is looked at beside the loop."""
_APPLICATION = frozenset({"system", "developer", "assistant"})
"""Roles whose messages an application writes."""

Found = Callable[[Finding], object]
_Places = Mapping[tuple[str, Action], Sequence[int]]


class InputGuard:
    def __init__(self, rules: Rules, *, normalize: bool, moderation: Moderation | None) -> None:
        self._rules = rules
        self._normalize = normalize
        self._moderation = moderation

    async def __call__(self, prompt: Prompt, *, moderation_required: bool, found: Found) -> Prompt:
        """The prompt as the provider may be asked; what was done to it, and why, is told to `found`.

        Raises ContentBlocked: nothing is to be asked.
        """
        characters = sum(len(text) for message in prompt.messages for text in texts(message))
        if characters > _AT_ONCE:
            prompt, places = await asyncio.to_thread(self._look, prompt)
        else:
            prompt, places = self._look(prompt)
        findings = list(_findings(places))
        if self._moderation is not None and not refusing(findings):
            findings += _findings(await self._judge(self._moderation, prompt, moderation_required))
        for finding in findings:
            found(finding)
        if blocked := refusing(findings):
            raise ContentBlocked("What was asked was refused.", categories=blocked)
        return prompt

    def _look(self, prompt: Prompt) -> tuple[Prompt, _Places]:
        places: dict[tuple[str, Action], list[int]] = defaultdict(list)
        messages = []
        for number, message in enumerate(prompt.messages):
            names: set[tuple[str, Action]] = set()
            messages.append(_rewritten(message, partial(self._text, message["role"] in _APPLICATION, names)))
            for name in sorted(names):
                places[name].append(number)
        return replace(prompt, messages=messages), places

    def _text(self, applications: bool, found: set[tuple[str, Action]], text: str) -> str:
        if self._normalize and (normal := normalized(text)) != text:
            found.add((NORMAL_FORM, Action.NORMALIZE))
            text = normal
        for rule in self._rules.found(text, applications=applications):
            found.add((rule.name, rule.action))
            if rule.action is Action.STRIP:
                text = rule.strip(text)
        return text

    async def _judge(self, moderation: Moderation, prompt: Prompt, required: bool) -> _Places:
        places: dict[tuple[str, Action], list[int]] = defaultdict(list)
        said = [(number, text) for number, message in enumerate(prompt.messages) for text in texts(message) if text]
        shown = [(number, url) for number, message in enumerate(prompt.messages) for url in images(message)]
        judged = [*zip(said, await moderation.of_texts([text for _, text in said]), strict=True)]
        judged += [((number, url), await moderation.of_image(url)) for number, url in shown]
        for (number, _), categories in judged:
            for category in categories:
                places[category, action_on(category, required=required)].append(number)
        return places


def _rewritten(message: Mapping[str, Any], rewrite: Callable[[str], str]) -> Mapping[str, Any]:
    """The message with other words in the places that `texts` tells of; the same, where they are the same."""
    new = {**message}
    match message.get("content"):
        case str(text):
            new["content"] = rewrite(text)
        case list(parts):
            new["content"] = [{**part, "text": rewrite(part["text"])} if "text" in part else part for part in parts]
    if calls := message.get("tool_calls"):
        new["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": rewrite(call["function"]["arguments"])}}
            for call in calls
        ]
    return new


def _findings(places: _Places) -> Iterator[Finding]:
    for (name, action), messages in places.items():
        yield Finding(name, action, Where.INPUT, tuple(sorted(set(messages))[:MOST_MESSAGES]))
