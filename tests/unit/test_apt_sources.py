"""The Debian mirror of a machine is found in whatever its apt sources look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionkeeper.apt_sources import (
    Source,
    debian_mirrors,
    parse_deb822,
    parse_one_line,
    read_sources,
)

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""
ONE_LINE = """\
# deb http://commented.test/debian bookworm main
deb [arch=amd64 signed-by=/etc/x.gpg] http://vendor.test/apt bookworm main stable
deb http://mirror.test/debian bookworm main contrib # ours
deb-src http://mirror.test/debian bookworm main
deb mirror+file:/etc/apt/mirrors/debian.list bookworm-updates main
"""


def test_deb822_sources_are_read_and_disabled_ones_passed_over() -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert parse_deb822(DEB822) == [
        Source("http://mirror.test/debian", "bookworm", ("main", "contrib"), keyring),
        Source("http://mirror.test/debian", "bookworm-updates", ("main", "contrib"), keyring),
        Source("http://mirror.test/debian-security", "bookworm-security", ("main",)),
    ]


def test_one_line_sources_are_read() -> None:
    assert parse_one_line(ONE_LINE) == [
        Source("http://vendor.test/apt", "bookworm", ("main", "stable"), "/etc/x.gpg"),
        Source("http://mirror.test/debian", "bookworm", ("main", "contrib")),
        Source("mirror+file:/etc/apt/mirrors/debian.list", "bookworm-updates", ("main",)),
    ]


def test_mirror_is_taken_from_all_files_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://old.test/debian bookworm main\n")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/saved.list.bak").write_text("deb http://bak.test/debian sid main\n")
    found = debian_mirrors(read_sources(tmp_path), "bookworm")
    assert found == ["http://mirror.test/debian", "http://old.test/debian"]


@pytest.mark.parametrize(
    ("lines", "codename", "mirrors"),
    [
        ("deb http://archive.test/ubuntu noble main\n", "", []),
        ("deb http://archive.test/ubuntu noble-updates main\n", "", []),
        ("deb http://mirror.test/debian bookworm-security main\n", "bookworm", []),
        ("deb http://mirror.test/debian bookworm contrib\n", "bookworm", []),
        ("deb http://vendor.test/apt bookworm main\n", "bookworm", []),
        (
            "deb http://corp.test/a bookworm main\ndeb http://corp.test/a bookworm-updates main\n",
            "bookworm",
            ["http://corp.test/a"],
        ),
        ("deb http://mirror.test/debian sid main\n", "", ["http://mirror.test/debian"]),
        (
            ONE_LINE,
            "bookworm",
            ["mirror+file:/etc/apt/mirrors/debian.list", "http://mirror.test/debian"],
        ),
        ("", "bookworm", []),
    ],
)
def test_only_what_serves_debian_itself_counts(
    lines: str, codename: str, mirrors: list[str]
) -> None:
    assert debian_mirrors(parse_one_line(lines), codename) == mirrors


def test_file_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/x.list").write_bytes(b"\xff\xfe\x00")
    assert read_sources(tmp_path) == []
