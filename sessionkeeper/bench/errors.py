"""What keeps a benchmark from measuring."""

from __future__ import annotations

from sessionkeeper.errors import SessionkeeperError

__all__ = ["RunFailed", "StackFailed"]


class RunFailed(SessionkeeperError):
    """One run did not do what is promised: it counts as infinitely slow, the others go on."""

    code = "bench_run_failed"


class StackFailed(SessionkeeperError):
    """A server that is to be measured did not start."""

    code = "bench_stack_failed"
    hint = "`sessionkeeper doctor` says what this machine can do"
