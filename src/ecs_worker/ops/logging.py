"""What the worker's own log lines look like: text for people, or one JSON object per line."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from ecs_worker.settings import WorkerSettings

_NOISY = ("aiobotocore", "botocore", "boto3", "httpx", "httpcore", "asyncio", "aiohttp")
_EXTRA = ("flow_run_id", "flow_run_name", "task_arn", "container")
# For machines: how late a run was launched, and how it ended. Metric filters of the deployed worker's log read them.
_FACTS = ("late_seconds", "ended")
_OUTPUT = "ecs_worker.output"  # containers' lines: logged with their own times and the run's name
_COLOURS = (32, 33, 34, 35, 36, 92, 93, 94, 95, 96)  # SGR codes that are readable on dark and light terminals


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the run and the task that it is about, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: str(value) for name in _EXTRA if (value := getattr(record, name, None)) is not None})
        line.update({name: value for name in _FACTS if (value := getattr(record, name, None)) is not None})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """For people. A container's line begins with the run's name; if `coloured`, in a colour of the run's own."""

    def __init__(self, *, coloured: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
        self._coloured = coloured

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, with the run's name if it is a container's."""
        if record.name == _OUTPUT:
            record.message = f"{self._name(record)} | {record.message}"
        return super().formatMessage(record)

    def _name(self, record: logging.LogRecord) -> str:
        name = str(getattr(record, "flow_run_name", ""))
        if not self._coloured:
            return name
        run_id = str(getattr(record, "flow_run_id", ""))
        return f"\x1b[{_COLOURS[crc32(run_id.encode()) % len(_COLOURS)]}m{name}\x1b[0m"


def configure_logging(settings: WorkerSettings) -> None:
    """Send log lines to standard error; of libraries only from WARNING on, as httpx logs a line per request."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(ConsoleFormatter(coloured=sys.stderr.isatty() and "NO_COLOR" not in os.environ))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger(_OUTPUT).setLevel(logging.INFO)  # containers' output is wanted at any log level
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
