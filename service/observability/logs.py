"""Log records: text for people or JSON for machines, with the ids of the requests that caused them.

The standard library and python-json-logger: structlog would cost the records of uvicorn, asyncio and our libraries
more, because they come through the standard library in any case.
"""

import logging
import re
from datetime import UTC, datetime
from itertools import islice
from logging import LogRecord
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

from service.http.headers import request_id
from service.observability.context import current_scopes
from service.observability.redaction import redact

# Requests of a batch that a record names. A batch has up to 100.
MAX_IDS: Final = 10

# The fields of a record that the text of a line has behind its message.
_FIELDS: Final = ("outcome", "user_id", "client", "request_id", "request_ids", "request_count")

# Not the line feed: a text of several lines is indented.
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def configuration(log_format: str = "text", log_level: str = "info") -> dict[str, Any]:
    """The configuration of the ``logging`` module. uvicorn passes it on to its workers."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": {"()": JSONFormatter if log_format == "json" else TextFormatter}},
        "filters": {"requests": {"()": RequestIds}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "chosen", "filters": ["requests"]},
        },
        "root": {"handlers": ["stderr"], "level": log_level.upper()},
    }


def as_json() -> bool:
    """Whether the records of this process are JSON."""
    return any(isinstance(handler.formatter, JSONFormatter) for handler in logging.getLogger().handlers)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RequestIds(logging.Filter):
    """Adds the ids of the current requests to every record."""

    def filter(self, record: LogRecord) -> bool:
        scopes = [*current_scopes()]
        if len(scopes) == 1:
            record.request_id = _id(scopes[0])
        elif scopes:
            record.request_ids = [_id(scope) for scope in islice(scopes, MAX_IDS)]
            record.request_count = len(scopes)
        return True


def _logger(record: LogRecord) -> str:
    """The name of the logger. uvicorn logs everything as ``uvicorn.error``, which would look like an error."""
    return "uvicorn" if record.name == "uvicorn.error" else record.name


def _id(scope: Any) -> str:
    return request_id(scope).decode()


class TextFormatter(logging.Formatter):
    """A line for people. Further lines, as of a traceback, are indented, so that no text can pass for a record."""

    def format(self, record: LogRecord) -> str:
        text = redact(record.getMessage())
        fields = record.__dict__
        named = [f"{name}={_value(fields[name])}" for name in _FIELDS if name in fields]
        line = f"{timestamp(record.created)} {record.levelname:7} {_logger(record)}: {' '.join([text, *named])}"
        if record.exc_info:
            line += "\n" + redact(self.formatException(record.exc_info))
        if record.stack_info:
            line += "\n" + redact(self.formatStack(record.stack_info))
        line = _CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
        return line.replace("\n", "\n  ")


def _value(value: object) -> str:
    if value is None:
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class JSONFormatter(JsonFormatter):
    """A JSON object in one line, also for a traceback."""

    def __init__(self) -> None:
        super().__init__(
            ["timestamp", "level", "logger", "message"],
            reserved_attrs=[*logging.makeLogRecord({}).__dict__, "message", "color_message", "taskName"],
        )

    def add_fields(self, log_data: dict[str, Any], record: LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data |= {
            "timestamp": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": _logger(record),
        }

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {name: redact(value) if isinstance(value, str) else value for name, value in log_data.items()}
