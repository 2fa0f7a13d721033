"""structlog on standard error: lines for people at a terminal, JSON for journald."""

from __future__ import annotations

import logging
import sys

import structlog

from appliance.config import Log


def configure(log: Log) -> None:
    """Set structlog up for this process."""
    console = log.format == "console" or (log.format == "auto" and sys.stderr.isatty())
    renderer = (
        # Tracebacks come as text; told so, releases before 26.1 do not warn about it.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, log.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
