"""What can go wrong in `sessionkeeper`, and what a user is told.

Every error has a `code` (stable, for programs), `retryable` (whether the same call can succeed
later without anybody changing anything), a `hint` (what to do, a command where there is one) and
the `exit_code` of the command line. `str(error)` is the text a user reads.

    SessionkeeperError            1
    ├── UsageError                2   the command or a setting is wrong
    ├── AlreadyRunning            3   another `sessionkeeper up` uses the same state directory
    ├── PortTaken                 4
    ├── StoreUnusable             5   the blob store cannot be written or breaks its contract
    ├── CriuError                 6
    │   ├── CriuMissing
    │   ├── CriuTooOld
    │   └── CriuUnusable              it is there and new enough, and does not work here
    ├── UnknownNode               7
    ├── UnknownSession            8
    ├── UnknownKernel             8
    ├── NotRunning                9   no `sessionkeeper up` to talk to
    ├── RuntimeUnavailable       10   this machine cannot offer the runtime that was asked for
    ├── CpuBelowBaseline         10   its CPU is less than the pool's kernels are held to
    ├── DiskFull                 11
    ├── SetupFailed              12   something could not be installed
    ├── NotLetIn                 17   a gateway does not let this machine in, or not under that name
    └── Unavailable              69   it should work and does not now: try again

130 (interrupted) and 70 (a bug of ours: what is in no error tree) are the command line's own.
Errors of `gateway` and `checkpoint` are mapped by their `code` in `EXIT_CODES`.
"""

from __future__ import annotations

__all__ = [
    "EXIT_BUG",
    "EXIT_CODES",
    "EXIT_INTERRUPTED",
    "AlreadyRunning",
    "CpuBelowBaseline",
    "CriuError",
    "CriuMissing",
    "CriuTooOld",
    "CriuUnusable",
    "DiskFull",
    "NotLetIn",
    "NotRunning",
    "PortTaken",
    "RuntimeUnavailable",
    "SessionkeeperError",
    "SetupFailed",
    "StoreUnusable",
    "Unavailable",
    "UnknownKernel",
    "UnknownNode",
    "UnknownSession",
    "UsageError",
    "exit_code",
    "explain",
]


class SessionkeeperError(Exception):
    """The root of the tree. `hint` given to an instance replaces that of its class."""

    code: str = "error"
    retryable: bool = False
    hint: str = ""
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class UsageError(SessionkeeperError):
    """A flag, setting or file that the user gave is wrong."""

    code = "usage"
    hint = "see `sessionkeeper --help`"
    exit_code = 2


class AlreadyRunning(SessionkeeperError):
    """Another process holds the state directory."""

    code = "already_running"
    hint = "use the one that runs, or give this one its own --state directory and --port"
    exit_code = 3


class PortTaken(SessionkeeperError):
    """Something listens on the port already."""

    code = "port_taken"
    hint = "choose another with --port"
    exit_code = 4


class StoreUnusable(SessionkeeperError):
    """The blob store cannot be written, or does not honour "only if absent"."""

    code = "store_unusable"
    hint = "check the path or URL given with --store, and its permissions"
    exit_code = 5


class CriuError(SessionkeeperError):
    """CRIU cannot be used on this machine."""

    code = "criu"
    hint = "run `sessionkeeper setup criu` as root"
    exit_code = 6


class CriuMissing(CriuError):
    """No `criu` was found."""

    code = "criu_missing"


class CriuTooOld(CriuError):
    """The `criu` that was found fails on current kernels."""

    code = "criu_too_old"


class CriuUnusable(CriuError):
    """`criu check` says that it does not work with this kernel or these privileges."""

    code = "criu_unusable"
    hint = "`criu check` names what is missing; without it, use `--runtime process`"


class UnknownNode(SessionkeeperError):
    """No node has that name."""

    code = "unknown_node"
    hint = "`sessionkeeper status` lists the nodes"
    exit_code = 7


class UnknownSession(SessionkeeperError):
    """No session has that id."""

    code = "unknown_session"
    hint = "`sessionkeeper status` lists the sessions"
    exit_code = 8


class UnknownKernel(SessionkeeperError):
    """No kernel has that id."""

    code = "unknown_kernel"
    hint = "`sessionkeeper status` lists the kernels"
    exit_code = 8


class NotRunning(SessionkeeperError):
    """Nothing listens on the control socket of the state directory."""

    code = "not_running"
    hint = "start it with `sessionkeeper up`"
    exit_code = 9


class RuntimeUnavailable(SessionkeeperError):
    """The runtime that was asked for does not work on this machine."""

    code = "runtime_unavailable"
    hint = "`sessionkeeper doctor` says what is missing; `--runtime process` needs none of it"
    exit_code = 10


class CpuBelowBaseline(SessionkeeperError):
    """The CPU lacks features that the kernels of the pool may use."""

    code = "cpu_below_baseline"
    hint = "give the pool a lower --cpu-baseline, or leave this machine out of it"
    exit_code = 10


class DiskFull(SessionkeeperError):
    """A disk has no room for what must be written."""

    code = "disk_full"
    retryable = True
    hint = "make room; what was committed before is kept"
    exit_code = 11


class SetupFailed(SessionkeeperError):
    """A package or tool could not be installed."""

    code = "setup_failed"
    retryable = True
    hint = "see the lines above, then run it again"
    exit_code = 12


class NotLetIn(SessionkeeperError):
    """A gateway does not let this machine in."""

    code = "not_let_in"
    hint = "ask the gateway's operator for a new token, and join anew"
    exit_code = 17


class Unavailable(SessionkeeperError):
    """A part that should answer does not, for now."""

    code = "unavailable"
    retryable = True
    hint = "try again in a moment"
    exit_code = 69


EXIT_BUG = 70
EXIT_INTERRUPTED = 130

# Errors of the other packages, which know nothing of exit codes: their `code` -> exit code.
EXIT_CODES: dict[str, int] = {
    "session_in_use": 3,
    "keys_being_replaced": 3,
    "key_still_needed": 2,
    "store_not_writable": 5,
    "store_credentials_refused": 5,
    "condition_not_honoured": 5,
    "unsupported_store": 5,
    "wrong_key": 5,
    "unknown_session": 8,
    "node_revoked": 17,
    "unauthorized": 17,
    "wrong_gateway": 17,
    "unknown_checkpoint": 8,
    "unknown_tag": 8,
    "kernel_not_found": 8,
    "kernelspec_not_found": 8,
    "notebook_session_not_found": 8,
    "store_full": 11,
    "journal_full": 11,
    "store_unavailable": 69,
    "transfer_broken": 69,
    "no_compute": 69,
    "agent_gone": 69,
    "agent_timeout": 69,
    "shim_gone": 69,
}


def exit_code(error: BaseException) -> int:
    """Its own exit code, that of its `code`, 1 for other errors of a tree, else `EXIT_BUG`."""
    if isinstance(error, SessionkeeperError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    code = getattr(error, "code", None)
    if isinstance(code, str):
        return EXIT_CODES.get(code, 1)
    return EXIT_BUG


def explain(error: BaseException) -> str:
    """What the command line prints on stderr: `error: ...`, and `hint: ...` where there is one."""
    text = str(error) or type(error).__name__
    hint = getattr(error, "hint", "")
    return f"error: {text}" + (f"\nhint: {hint}" if hint else "")
