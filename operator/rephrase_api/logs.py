"""The one formatter of the standard library's logging: a JSON object a line on standard output.

Messages are constant sentences; what varies goes into fields (`logger.info("unit committed",
extra={"unit": 7})`). Never document text, prompt text or credentials.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, severity, logger, message, the extra fields, exception."""

    def __init__(self, **always: object) -> None:
        super().__init__()
        self._always = {name: value for name, value in always.items() if value not in ("", None)}

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
        }
        entry |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def configure(level: str, **always: object) -> None:
    """Send all logging of this process to standard output as JSON.

    Args:
        level: Debug, Info, Warning or Error.
        always: fields of every line, for example run and worker.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(**always))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
