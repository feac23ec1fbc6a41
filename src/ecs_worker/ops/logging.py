"""How the worker's own log lines look: text for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecs_worker.settings import WorkerSettings

_NOISY = ("aiobotocore", "botocore", "boto3", "httpx", "httpcore", "asyncio", "aiohttp")
_EXTRA = ("flow_run_id", "flow_run_name", "task_arn", "container")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the run and task it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: str(value) for name in _EXTRA if (value := getattr(record, name, None)) is not None})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(settings: WorkerSettings) -> None:
    """Send log lines to standard error. Libraries speak up from WARNING on only: httpx logs a line per request."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
