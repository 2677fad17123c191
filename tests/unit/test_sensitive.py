"""Which variables are secrets."""

from __future__ import annotations

import pytest

from sessionkeeper.sensitive import has_secrets, is_secret


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "GITHUB_TOKEN",
        "githubToken",
        "PGPASSWORD_FILE_PASS",
        "DB_PASSWORD",
        "KERNEL_AUTH",
        "OPENAI_API_KEY",
        "SENTRY_DSN",
        "MY-API-KEY2",
    ],
)
def test_name_tells(name: str) -> None:
    assert is_secret(name, "x")
    assert not is_secret(name, "")


@pytest.mark.parametrize(
    "value",
    [
        "postgres://ann:hush@db/course",
        "https://:x@registry.example",
        "see HTTPS://u:p@h",
    ],
)
def test_url_with_a_password_tells_whatever_it_is_called(value: str) -> None:
    assert is_secret("PLACE", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KERNEL_USERNAME", "ann"),
        ("HOME", "/home/ann"),
        ("KEYBOARD", "us"),
        ("COMPASS", "north"),
        ("MONKEY_COUNT", "3"),
        ("DATABASE_URL", "postgres://db/course"),
        ("MAIL", "mailto:a@b"),
        ("TIME", "http://host:80/@x"),
    ],
)
def test_what_is_none(name: str, value: str) -> None:
    assert not is_secret(name, value)


def test_one_is_enough() -> None:
    assert has_secrets({"HOME": "/", "TOKEN": "x"})
    assert not has_secrets({"HOME": "/"})
