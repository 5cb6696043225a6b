"""Structured logs to standard error: one line per event, JSON for machines, columns on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

import structlog

from services.runtime.settings import LogSettings

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_MOST_CHARACTERS: Final = 2000
_MOST_OF_EXCEPTION: Final = 16_000
_QUIET_LIBRARIES: Final = ("nats", "aiohttp.access", "grpc", "urllib3", "kubernetes", "asyncio")


def printable(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return `text` cut to `most` characters, with what commands a terminal or turns its text around shown, not done."""
    cut = f"{text[:most]}... ({len(text)} characters)" if len(text) > most else text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in cut)


def _bound(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make each value fit for a line: much of what is said comes from others, who may say anything, at any length."""
    for name, value in event.items():
        if isinstance(value, (int, float)) or value is None:
            continue
        text = value if isinstance(value, str) else repr(value)
        most = _MOST_OF_EXCEPTION if name == "exception" else _MOST_CHARACTERS
        if isinstance(value, str) or len(text) > most:
            event[name] = printable(text, most)
    return event


def configure(settings: LogSettings, *, service: str) -> None:
    """Make every structlog and standard-library logger of the process write as `settings` say, with `service` in each line."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        add_service,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [
        structlog.processors.format_exc_info,
        _bound,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove_meta, *last]))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET_LIBRARIES:
        # What these say per connection, request or retry is said once, as an event, by the module that uses them.
        logging.getLogger(name).setLevel(max(level, logging.ERROR))
