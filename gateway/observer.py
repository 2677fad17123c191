"""What a gateway tells whoever runs its kernels."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.rollback import Rollback


@dataclass(frozen=True)
class KernelExit:
    """How a kernel process ended; `stderr` are its last words, `why` what its node knows of the
    reason, and `passes` whether that is over when it is brought back.
    """

    code: int | None
    signal: int | None
    stderr: str = ""
    why: str = ""
    passes: bool = False

    def __str__(self) -> str:
        how = f"was killed by signal {self.signal}" if self.signal else f"exited ({self.code})"
        why = f": {self.why.removesuffix('.')}" if self.why else ""
        return f"The kernel {how}{why}."


class Observer:
    """Told what happens to kernels. All methods are called in the event loop; override some."""

    def started(self, kernel_id: str) -> None:
        """The kernel process answers."""

    def exited(self, kernel_id: str, ended: KernelExit) -> str | None:
        """The kernel process has ended. None: that is final (and nothing else is to be done).

        A text: it is brought back; the text is what waiting requests are answered with.
        """
        return None

    def rolled_back(self, rollback: Rollback) -> None:
        """A restored kernel knew less than its clients; this is what was done about it."""

    def interrupt_again(self, kernel_id: str) -> None:
        """A restored kernel goes on in the middle of what was interrupted later: interrupt it."""

    def fenced(self, kernel_id: str, epoch: int) -> None:
        """A shim of another epoch than the attached one was refused."""

    def missing(self, kernel_id: str, count: int) -> None:
        """So many outputs are lost (the gateway's disk lost the end of its journal)."""

    def wanted(self, kernel_id: str, msg_type: str) -> None:
        """A request came while no node is attached."""

    def heavy(self, seconds: float) -> None:
        """A large message is about to keep this process busy, for so long at most."""

    def busy(self, kernel_id: str) -> None:
        """A kernel that was idle runs something."""

    def request_done(self, kernel_id: str, msg_type: str) -> None:
        """A request has had its reply and its idle."""
