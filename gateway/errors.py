"""Errors of the gateway package: one tree, and the text a user reads in `str(e)`.

    GatewayError
    ├── BadRequest            what the client sent makes no sense
    ├── Unauthorized          token missing or wrong
    ├── Forbidden             the token is good, what it asks for is not allowed
    ├── NodeRevoked           the operator does not let this node in any more
    ├── WrongGateway          a node was challenged by another gateway than the one it joined
    ├── CrossOrigin           a page of another origin asks
    ├── TooManyKernels        the operator's limit is reached
    ├── OptionRefused         an option of the operator cannot hold here
    ├── SeedFailed            the notebook that every kernel begins with failed
    ├── KernelNotFound        no kernel of that id
    ├── KernelspecNotFound    no kernelspec of that name
    │   └── NoSuchKernel      … and the operator has set it
    ├── NotebookSessionNotFound
    ├── KernelStartFailed     the kernel ended before it answered
    ├── JournalFull           the journal's disk takes no more (retryable)
    ├── JournalDamaged        a journal file is not ours
    ├── BadFrame              a peer broke the link protocol
    ├── VersionRefused        a peer speaks another major version
    ├── Fenced                an older incarnation tried to be heard
    ├── NoCompute             no node runs this kernel now (retryable)
    ├── AgentGone             the agent's connection ended before it answered (retryable)
    ├── AgentTimeout          the agent did not answer in time (retryable)
    ├── ShimGone              the shim's connection ended (retryable)
    └── RemoteError           the other side answered with an error: its code, hint…

`code` is stable and for programs, `retryable` says whether the same call can succeed later without
a change, `hint` says what to do. HTTP statuses are in one table, `HTTP_STATUS`.
"""

from __future__ import annotations

from typing import Any


class GatewayError(Exception):
    """Root of the tree. `str(e)` is for users; `hint` (may be given per error) says what to do."""

    code: str = "gateway_error"
    retryable: bool = False
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def to_wire(self) -> dict[str, Any]:
        """The error object of agent calls: `{code, message, hint, retryable}`."""
        return {
            "code": self.code,
            "message": str(self),
            "hint": self.hint,
            "retryable": self.retryable,
        }


class BadRequest(GatewayError):
    code = "bad_request"


class Unauthorized(GatewayError):
    code = "unauthorized"
    hint = "Send the header 'Authorization: token <token>'; `sessionkeeper up` prints the token."

    def __init__(self, message: str = "Token missing or wrong.", *, hint: str | None = None):
        super().__init__(message, hint=hint)


class Forbidden(GatewayError):
    code = "forbidden"


class NodeRevoked(GatewayError):
    code = "node_revoked"
    hint = "Ask the gateway's operator for a new token, and join anew."


class WrongGateway(GatewayError):
    code = "wrong_gateway"
    hint = "Is the URL right? If the gateway was made anew, join it anew with a token of it."


class CrossOrigin(GatewayError):
    code = "cross_origin"
    hint = "The gateway's operator allows one with KG_ALLOW_ORIGIN, all of them with '*'."

    def __init__(self, origin: str):
        super().__init__(f"A page of {origin} may not use this gateway.")


class TooManyKernels(GatewayError):
    code = "too_many_kernels"
    hint = "Shut one down; the gateway's operator has set the limit (KG_MAX_KERNELS)."

    def __init__(self, most: int):
        super().__init__(f"Resource Limit: there are {most} kernels, and there may be no more.")


class OptionRefused(GatewayError):
    code = "option_refused"
    hint = "docs/gateway.md lists the options, which are refused, and why."


class SeedFailed(GatewayError):
    code = "seed_failed"
    hint = "The gateway's operator has set the notebook (KG_SEED_URI); it must run without error."


class KernelNotFound(GatewayError):
    code = "kernel_not_found"
    hint = "GET /api/kernels lists the kernels there are. It may have been shut down."

    def __init__(self, kernel_id: str):
        super().__init__(f"There is no kernel {kernel_id}.")


class KernelspecNotFound(GatewayError):
    code = "kernelspec_not_found"

    def __init__(self, name: str, there_is: list[str]):
        known = ", ".join(sorted(there_is)) or "none"
        super().__init__(f"There is no kernelspec {name!r}. There is: {known}.")
        self.hint = "Choose one of those, or install the kernel in the session's image."


class NoSuchKernel(KernelspecNotFound):
    """The kernelspec that the operator has set is not there: nothing that a client can mend."""

    code = "no_such_kernel"

    def __init__(self, name: str, there_is: list[str]):
        super().__init__(name, there_is)
        self.hint = "The gateway's operator has set it (KG_DEFAULT_KERNEL_NAME or another option)."


class NotebookSessionNotFound(GatewayError):
    code = "notebook_session_not_found"
    hint = "GET /api/sessions lists the notebook sessions there are."

    def __init__(self, session_id: str):
        super().__init__(f"There is no notebook session {session_id}.")


class KernelStartFailed(GatewayError):
    code = "kernel_start_failed"
    hint = "The kernel's last words are in the message. Does the command of its kernelspec work?"


class JournalFull(GatewayError):
    code = "journal_full"
    retryable = True
    hint = "Free space on the gateway's state directory. Kernels go on; nothing is lost meanwhile."


class JournalDamaged(GatewayError):
    code = "journal_damaged"
    hint = "Move the file away and restart the gateway; the kernel's checkpoint is not affected."


class BadFrame(GatewayError):
    code = "bad_frame"


class VersionRefused(GatewayError):
    code = "version_refused"
    hint = "Install the same major version of sessionkeeper on both sides."


class Fenced(GatewayError):
    code = "fenced"
    hint = "The session lives on another node now. The kernels of this incarnation must stop."


class NoCompute(GatewayError):
    code = "no_compute"
    retryable = True
    hint = "The session is being moved or waits for a node; requests are kept and will be applied."


class AgentGone(GatewayError):
    code = "agent_gone"
    retryable = True
    hint = "The agent reconnects by itself if its node is alive."


class AgentTimeout(GatewayError):
    code = "agent_timeout"
    retryable = True
    hint = "Look at the agent's log on the node."


class ShimGone(GatewayError):
    code = "shim_gone"
    retryable = True
    hint = "The kernel's container may have ended; the agent's log says more."


class RemoteError(GatewayError):
    """The other side's own words. `code`, `hint` and `retryable` are what it sent."""

    def __init__(self, error: dict[str, Any]):
        super().__init__(str(error.get("message", "unknown error")))
        self.code = str(error.get("code", "remote_error"))
        self.hint = str(error.get("hint", ""))
        self.retryable = bool(error.get("retryable", False))


# The HTTP boundary. By code and not by class, so that errors of agents are mapped as well.
HTTP_STATUS: dict[str, int] = {
    BadRequest.code: 400,
    BadFrame.code: 400,
    VersionRefused.code: 400,
    Unauthorized.code: 401,
    Forbidden.code: 403,
    NodeRevoked.code: 403,
    WrongGateway.code: 403,
    TooManyKernels.code: 403,
    CrossOrigin.code: 404,  # as Jupyter Server has it
    KernelNotFound.code: 404,
    KernelspecNotFound.code: 404,
    NotebookSessionNotFound.code: 404,
    Fenced.code: 409,
    GatewayError.code: 500,
    JournalDamaged.code: 500,
    NoSuchKernel.code: 500,
    KernelStartFailed.code: 500,
    OptionRefused.code: 500,
    SeedFailed.code: 500,
    AgentGone.code: 503,
    NoCompute.code: 503,
    ShimGone.code: 503,
    AgentTimeout.code: 504,
    JournalFull.code: 507,
}


def http_status(error: Exception) -> int:
    """HTTP status of an error. Codes that the table doesn't know: 503 if retryable, else 500."""
    code = getattr(error, "code", "")
    return HTTP_STATUS.get(code, 503 if getattr(error, "retryable", False) else 500)
