"""What counts as activity for who culls idle servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sessionkeeper.ui.kernels import latest_activity

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def kernel(state: str, ago: float) -> dict[str, str]:
    at = NOW - timedelta(seconds=ago)
    return {"execution_state": state, "last_activity": at.isoformat().replace("+00:00", "Z")}


def test_kernel_that_computes_in_silence_is_active_now():
    assert latest_activity([kernel("busy", 3600), kernel("idle", 5)], NOW) == NOW


def test_idle_kernels_are_as_active_as_the_last_of_them_was():
    found = latest_activity([kernel("idle", 3600), kernel("idle", 5), kernel("dead", 60)], NOW)
    assert found == NOW - timedelta(seconds=5)


def test_without_kernels_there_is_no_activity():
    assert latest_activity([], NOW) is None
