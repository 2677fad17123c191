"""Why CRIU or runc failed, out of what they log."""

from __future__ import annotations

import re
from pathlib import Path


def reason(criu_log: Path, otherwise: str) -> str:
    """Return what CRIU's log gives as the first error that is not a mere remark; else the last
    words of runc's (``level=error msg="..."``), or of what was said ``otherwise``.
    """
    if criu_log.exists():
        for line in criu_log.read_text(errors="replace").splitlines():
            found = re.search(r"Error \((?P<where>[^)]*)\): (?P<what>.*)", line)
            if found and not found["what"].startswith("rlimit:"):
                return f"{found['what']} ({found['where']})"
    return words(otherwise)


def words(log: str) -> str:
    """Return the message of the last line of runc's log."""
    lines = [line for line in log.strip().splitlines() if line]
    if not lines:
        return "it gave no reason"
    found = re.search(r'msg="(?P<what>.*)"', lines[-1])
    return found["what"] if found else lines[-1]
