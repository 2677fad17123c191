"""What can go wrong on a node. Leaves of :class:`sessionkeeper.errors.SessionkeeperError`.

SessionkeeperError
├── NodeSetupFailed     a namespace, mount or address could not be made
├── DumpFailed          CRIU could not dump a kernel; the kernel goes on
├── KernelBusy          no checkpoint now: a kernel is not between two cells, or not all here
├── NoTimeLeft          a last checkpoint would not be in the store before the node goes
├── RestoreFailed       CRIU could not restore a kernel here
├── KernelStartFailed   the container or the shim did not come up
├── NotHosted           this node does not run that session (any more)
└── FileRefused         a workspace file operation failed, in the operating system's words
"""

from __future__ import annotations

from sessionkeeper.errors import SessionkeeperError


class NodeSetupFailed(SessionkeeperError):
    """A namespace, mount or address could not be made."""

    code = "node_setup_failed"
    hint = "`sessionkeeper doctor` on the node says what is missing"


class DumpFailed(SessionkeeperError):
    """CRIU could not dump a kernel. The kernel runs on; the last checkpoint stays the newest."""

    code = "dump_failed"
    retryable = True
    hint = (
        "something in the kernel cannot be dumped; close it (a device, a GPU, a mount, a file"
        " watcher), then go on"
    )


class KernelBusy(SessionkeeperError):
    """A kernel whose variables are saved between two cells is not there, or the memory of one that
    was restored lazily is not yet. It goes on.
    """

    code = "kernel_busy"
    retryable = True
    hint = "it is tried again; the `container` runtime can save a kernel in the middle of a cell"


class NoTimeLeft(SessionkeeperError):
    """The node goes before a last checkpoint of the session could be in the store, as fast as such
    were so far and with all that is worth more to save.
    """

    code = "no_time_left"
    hint = "what came after the newest checkpoint runs again"


class RestoreFailed(SessionkeeperError):
    """CRIU could not restore a kernel on this node."""

    code = "restore_failed"
    retryable = True
    hint = "another node may be able to"


class KernelStartFailed(SessionkeeperError):
    """The kernel's container or shim did not come up."""

    code = "kernel_start_failed"
    hint = "check the kernel's own start: `jupyter kernelspec list`"


class NotHosted(SessionkeeperError):
    """The session is not on this node."""

    code = "not_hosted"
    retryable = True


class FileRefused(SessionkeeperError):
    """A workspace operation failed. ``code`` is the HTTP boundary's: not_found, exists, not_empty,
    changed, refused, full.
    """

    def __init__(self, message: str, code: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
