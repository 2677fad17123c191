"""Read apt's sources, to find the Debian mirror that a machine already uses.

Formats: one-line (`deb [options] URI suite component...`) and deb822 (`Types:`, `URIs:`,
`Suites:`, `Components:`), see sources.list(5).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Source", "debian_mirrors", "parse_deb822", "parse_one_line", "read_sources"]


@dataclass(frozen=True)
class Source:
    """One place that binary packages come from."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: str = ""


def parse_one_line(text: str) -> list[Source]:
    """The sources in a `.list` file; lines that are none are passed over."""
    sources = []
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)([^#]*)", line)
        if found:
            options, uri, suite, components = found.groups()
            keyring = re.search(r"signed-by=(\S+)", options or "", re.IGNORECASE)
            sources.append(
                Source(uri, suite, tuple(components.split()), keyring[1] if keyring else "")
            )
    return sources


def parse_deb822(text: str) -> list[Source]:
    """The sources in a `.sources` file; stanzas that are disabled or no `deb` are passed over."""
    sources = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        components = tuple(fields.get("components", "").split())
        keyring = fields.get("signed-by", "")
        sources += [
            Source(uri, suite, components, keyring)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return sources


def read_sources(directory: Path) -> list[Source]:
    """All sources under `directory` (`/etc/apt`). Files that cannot be read are passed over."""
    sources: list[Source] = []
    listed = [directory / "sources.list", *sorted(directory.glob("sources.list.d/*"))]
    for path in listed:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.suffix == ".list":
                sources += parse_one_line(path.read_text())
            elif path.suffix == ".sources":
                sources += parse_deb822(path.read_text())
    return sources


def debian_mirrors(sources: Iterable[Source], codename: str) -> list[str]:
    """URIs that serve the Debian archive, likeliest first.

    `codename` is that of this Debian release (empty where the distribution is not Debian). A mirror
    offers it, or a suite that has no number, with the component `main`. Other vendors do that too,
    so it must also be signed with Debian's keyring, be named after Debian, or offer `-updates`;
    and whoever uses the result has apt verify it.
    """
    names = {codename, "stable", "testing", "unstable", "sid"} - {""}
    scores: dict[str, int] = {}
    for source in sources:
        base = source.suite.removesuffix("-updates")
        if "main" not in source.components or base not in names:
            continue
        marks = (
            "debian-archive-keyring" in source.keyring,
            "debian" in source.uri,
            bool(codename) and source.suite != base,
        )
        scores[source.uri] = scores.get(source.uri, 0) + sum(marks)
    likely = {uri: score for uri, score in scores.items() if score > 0}
    return sorted(likely, key=lambda uri: -likely[uri])
