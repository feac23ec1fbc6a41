"""Console lines of Prefect's logger, as containers write them (Prefect, `logging.yml`, formatter `standard`)."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_LINE = re.compile(
    r"\d\d:\d\d:(?P<second>\d\d)\.(?P<millisecond>\d{3}) \| (?P<level>[A-Z]+) *\| "
    r"""(?:(?P<run>Flow run|Task run) (?:'.*?'|".*?")|(?P<logger>[^\s|]+)) - (?P<text>.*)""",
    re.DOTALL,
)
_MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Logged:
    """A line that Prefect's logger wrote. `moment`: its time in milliseconds of the minute, in any time zone.

    `source`: "Flow run", "Task run", or the logger's name. A message of several lines has its others after this one.
    """

    level: int
    source: str
    moment: int
    text: str

    def is_at(self, milliseconds: int) -> bool:
        """Whether that is its time (since 1970); the console cuts off what servers may round."""
        return abs((milliseconds - self.moment + 1) % _MINUTE - 1) <= 1


def logged(line: str) -> Logged | None:
    """What the line says of itself; None if Prefect's logger didn't write it, or goes on with a message."""
    if " | " not in line:  # by far the most lines of programs that don't log by Prefect
        return None
    found = _LINE.fullmatch(_COLOURS.sub("", line))
    level = logging.getLevelNamesMapping().get(found["level"]) if found is not None else None
    if found is None or level is None:
        return None
    moment = int(found["second"]) * 1000 + int(found["millisecond"])
    return Logged(level, found["run"] or found["logger"], moment, found["text"].rstrip())
