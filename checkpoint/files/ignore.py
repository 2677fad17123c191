"""`.sessionkeeperignore`: what people do not want in their checkpoints, in gitignore's syntax.

A directory's file counts for all below it; a deeper one has the last word, as with git
(`gitignore(5)`). A directory that is left out is not looked into. Matching is `pathspec`'s.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from dataclasses import dataclass

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

NAME = b".sessionkeeperignore"
MAX_BYTES = 64 << 10
# Each `*` is one more nested loop of a regular expression: whoever writes patterns must not be able
# to stop the process that looks at the tree. Three take 0.05 s at worst, a fourth one seconds.
MAX_STARS = 3

_STARS = re.compile(r"\*+")


@dataclass(frozen=True)
class Rules:
    """One file's patterns. `base` is the path of its directory.

    `refused` are lines that do not count, and why.
    """

    base: bytes
    patterns: tuple[GitIgnoreSpecPattern, ...]
    refused: tuple[str, ...] = ()

    def verdict(self, path: bytes) -> bool | None:
        """Whether `path` (of a directory: with a `/` at the end) is left out; None: not said.

        Of the patterns that match it, the last counts.
        """
        inside = os.fsdecode(path[len(self.base) + 1 :] if self.base else path)
        for pattern in reversed(self.patterns):
            found = pattern.match_file(inside)
            # The library's patterns match all below a directory too; that was asked about before.
            if found is not None and found.match.end() == len(inside):
                return pattern.include
        return None


def parse(base: bytes, text: bytes) -> Rules:
    """The rules in `text`. Lines that cannot be patterns are `refused`, the others count."""
    patterns, refused = [], []
    lines = text.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, 1):
        words = os.fsdecode(line.removesuffix(b"\r"))
        if not words.strip() or words.startswith("#"):
            continue
        try:
            patterns.append(_pattern(words))
        except ValueError as error:
            refused.append(f"line {number} {error}")
    return Rules(base, tuple(patterns), tuple(refused))


def _pattern(line: str) -> GitIgnoreSpecPattern:
    """The pattern in a line. Raises `ValueError`, whose text goes on after the line's number."""
    if len(_STARS.findall(line)) > MAX_STARS:
        raise ValueError(f"has * more than {MAX_STARS} times")
    try:
        pattern = GitIgnoreSpecPattern(_spelled_out(line))
    except (ValueError, re.error):
        raise ValueError("is not a pattern") from None
    if pattern.include is None:
        raise ValueError("is not a pattern")
    return pattern


def _spelled_out(line: str) -> str:
    """The same pattern, such that a match of it ends where the path does.

    The library shortens those that match everything, or everything below a directory.
    """
    body = line.rstrip().removeprefix("!")
    sign = "!" if line.startswith("!") else ""
    if body in ("*", "**", "/**", "**/*"):
        return f"{sign}?*"
    if body in ("*/", "**/"):
        return f"{sign}?*/"
    return f"{line.rstrip()}/?*" if body.endswith("/**") else line


def read_rules(directory: int, base: bytes) -> Rules:
    """The rules of the file `NAME` in the open directory, which is at `base`. Follows no link.

    Raises `OSError`, and `ValueError` when the file cannot be one (the error's text says why).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(NAME, flags, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES >> 10} KiB")
        text = os.pread(fd, MAX_BYTES, 0)
    finally:
        os.close(fd)
    return parse(base, text)


def left_out(rules: tuple[Rules, ...], path: bytes, *, directory: bool) -> bool:
    """Whether `path` is left out by `rules`, of which the last are those of the deepest file.

    Never the file that has them.
    """
    # A name with a newline would match patterns that do not mean it.
    if not rules or b"\n" in path or path.rpartition(b"/")[2] == NAME:
        return False
    asked = path + b"/" if directory else path
    said = (one.verdict(asked) for one in reversed(rules))
    return next((verdict for verdict in said if verdict is not None), False)
