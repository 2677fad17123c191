"""LOCAL calls of the agent, the shim's end. docs/link-protocol.md §4.

Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gateway.frames import CONTROL, SHELL, encode_local
from gateway.shim_agent import AgentSocket

if TYPE_CHECKING:
    from gateway.shim import Shim


class ShimCalls:
    """Answers calls for a shim."""

    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    def answer(self, agent: AgentSocket, call: dict[str, Any]) -> None:
        """Do what the agent asks for; the answer comes now or later."""
        number, name = call.get("id"), call.get("call")
        method = getattr(self, f"_call_{name}", None)
        if method is None:
            answer_error(agent, number, "unknown_call", f"there is no call {name!r}")
            return
        try:
            result = method(agent, number, call)
        except (OSError, KeyError, TypeError, ValueError) as error:
            answer_error(agent, number, "failed", f"{name}: {error or type(error).__name__}")
            return
        if result is not None:
            agent.send(encode_local({"id": number, "result": result}))

    def _call_start(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> dict[str, Any]:
        if self._shim.pid is not None:
            raise ValueError("a kernel is running already")
        self._shim.link.next_seq = max(self._shim.link.next_seq, int(call.get("next_seq") or 1))
        self._shim.link.applied = max(self._shim.link.applied, int(call.get("applied") or 0))
        self._shim.config["kernel_id"] = call.get("kernel_id", self._shim.config.get("kernel_id"))
        return {"pid": self._shim.start(call["kernel"])}

    def _call_status(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> dict[str, Any]:
        return {
            "alive": self._shim.pid is not None and self._shim.quiet_at is None,
            "ready": self._shim.ready,
            "busy": bool(self._shim.dropped.ends.busy),
            "applied": self._shim.link.applied,
            "produced": self._shim.link.next_seq - 1,
            "unacked": self._shim.link.unacked_bytes,
            "epoch": self._shim.epoch,
            "pid": self._shim.pid,
            "kernel_id": self._shim.config.get("kernel_id"),
        }

    def _call_interrupt(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> Any:
        if CONTROL in self._shim.kernel.sockets:
            self._shim.let_move()
            self._shim.kernel.interrupt()
        return {}

    def _call_stop(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> Any:
        if self._shim.pid is None:
            return {"code": None, "signal": None}
        self._shim.stops.append((agent, number))
        self._shim.stop(float(call.get("grace", 2.0)))
        return None

    def _call_execute(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> None:
        if not self._shim.ready or self._shim.pid is None:
            raise ValueError("the kernel is not running")
        content = {
            "code": call["code"],
            "silent": True,
            "store_history": False,
            "user_expressions": call.get("user_expressions") or {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        deadline = time.monotonic() + float(call.get("timeout", 60.0))
        msg_id = self._shim.kernel.request(SHELL, "execute_request", content)
        self._shim.executes[msg_id] = (agent, number, deadline)

    def _call_pause_input(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> Any:
        self._shim.link.pause()
        return {"applied": self._shim.link.applied}

    def _call_resume_input(self, agent: AgentSocket, number: Any, call: dict[str, Any]) -> Any:
        self._shim.link.resume(self._shim.epoch)
        return {"applied": self._shim.link.applied}


def answer_error(agent: AgentSocket, call: Any, code: str, message: str) -> None:
    """Answer a call with an error."""
    agent.send(encode_local({"id": call, "error": {"code": code, "message": message}}))
