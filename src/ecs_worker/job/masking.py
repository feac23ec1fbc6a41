"""Requests as they may be shown: without the secrets that can be recognised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "********"
_SUSPICIOUS = "(?:secret|token|key|pass|pwd|(?<![a-z])pat(?![a-z])|auth|credential|headers|private|dsn)"
_SECRET = re.compile(_SUSPICIOUS, re.IGNORECASE)
# In a command: `NAME=value`, `--name=value` and, in a shell's text, `--name value`.
_SECRET_WORD = re.compile(
    rf"((?<![\w-])[\w-]*{_SUSPICIOUS}[\w-]*=|(?<!\S)-[\w-]*{_SUSPICIOUS}[\w-]*\s+)\S+", re.IGNORECASE
)
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
# Maps of free names to texts that ECS hands to drivers and to Docker.
_MAPS = {"options", "driverOpts", "dockerLabels"}
_COMMANDS = {"command", "entryPoint"}


class Redactor:
    """Texts that came out of blocks and Prefect variables: no message may repeat them, `but` for those given."""

    def __init__(self, *sources: Any, but: Iterable[str] = ()) -> None:
        found = {text.strip() for source in sources for text in _texts(source)} - {"", *but}
        # As they are, and as Python quotes them; the longer first, as one may hold another.
        forms = sorted(found | {repr(text)[1:-1] for text in found}, key=len, reverse=True)
        patterns = [re.escape(text) if len(text) >= _LONG else rf"(?<!\w){re.escape(text)}(?!\w)" for text in forms]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def hide(self, message: str) -> str:
        """The message with ******** in their place."""
        return self._pattern.sub(MASK, message) if self._pattern else message


_LONG = 8  # characters; shorter ones may be parts of other words, and are only hidden where they stand alone


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def masked(request: Any) -> Any:
    """A copy of an ECS request with ******** for values under names that sound secret and for passwords in URLs.

    Secrets that ECS fetches itself stand in requests by their ARN, which stays.
    """
    if isinstance(request, dict):
        if isinstance(request.get("name"), str) and isinstance(request.get("value"), str):
            return {**request, "value": _value(request["name"], request["value"])}
        return {
            key: _map(value) if key in _MAPS else _command(value) if key in _COMMANDS else masked(value)
            for key, value in request.items()
        }
    if isinstance(request, list):
        return [masked(item) for item in request]
    return _text(request) if isinstance(request, str) else request


def _map(values: Any) -> Any:
    if not isinstance(values, dict):
        return masked(values)
    return {
        name: _value(str(name), value) if isinstance(value, str) else masked(value) for name, value in values.items()
    }


def _command(words: Any) -> Any:
    if not isinstance(words, list):
        return masked(words)
    shown = [_SECRET_WORD.sub(rf"\1{MASK}", masked(word)) if isinstance(word, str) else word for word in words]
    for number, option in enumerate(words[:-1]):
        if isinstance(option, str) and re.fullmatch(r"-[\w-]+", option) and _SECRET.search(option):
            shown[number + 1] = MASK
    return shown


def _value(name: str, value: str) -> str:
    return MASK if value and _SECRET.search(name) else _text(value)


def _text(value: str) -> str:
    return _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", value)
