"""What every program of ours writes to its log: text, or JSON lines of one field set. No secret.

A line of JSON has `time` (UTC, microseconds; lines sort by it), `level`, `part` (gateway, ui, the
node's name, up), `logger`, `message`, and where there are any `error` (a traceback) and what
`gateway.trace` says of a message. docs/operations.md has the list.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from gateway.auth import redact

__all__ = ["PASSES_ON", "PassedOn", "set_up"]

_OURS = ("checkpoint", "gateway", "sessionkeeper")
"""Only these speak at DEBUG: libraries would log what users send, and tokens in headers."""


class _Discreet(logging.Formatter):
    """Takes out the secrets that it is told, and tokens in URLs, wherever they come from."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = tuple(secret for secret in secrets if secret)

    def clean(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "[secret]")
        return redact(text)


class TextLines(_Discreet):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        traced = getattr(record, "trace", None)
        if traced:
            text += "".join(f" {name}={value}" for name, value in traced.items())
        return self.clean(text)


class JsonLines(_Discreet):
    def __init__(self, secrets: Iterable[str], part: str) -> None:
        super().__init__(secrets)
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": self.clean(record.getMessage()),
        }
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = self.clean("".join(traceback.format_exception(record.exc_info[1])))
        said |= getattr(record, "trace", {})
        return json.dumps(said, ensure_ascii=False)


def set_up(
    part: str, form: str, level: str, secrets: Iterable[str] = (), file: Path | None = None
) -> None:
    """Log to standard error, or to `file`, as `text` or `json`, from `level` on (`debug`, `info`,
    `warning`, `error`). `secrets` never appear, whatever logs them.
    """
    handler = logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(secrets, part) if form == "json" else TextLines(secrets))
    logging.basicConfig(handlers=[handler], level=max(logging.INFO, _number(level)))
    for name in _OURS:
        logging.getLogger(name).setLevel(_number(level))


class PassedOn(logging.Handler):
    """For loggers of libraries that write on their own: has them write as the rest does."""

    def __init__(self, stream: object = None) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)


PASSES_ON = f"{__name__}.{PassedOn.__name__}"
"""What a logging configuration calls it."""


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
