"""A node whose kernels are only links: the shim's side of hundreds of kernels, over a real socket.

    python -m sessionkeeper.bench.shims URL TOKEN_FILE

Hundreds of IPython kernels do not fit on a small machine, and what is measured is the gateway. Each
kernel here is the `ShimLink` that a real one has; what it says is text with a number and the
moment. Orders come as lines of JSON on standard input: `{"rate": messages per second of all kernels
together, "size": bytes of each}`; each is answered, on standard output, with the number of the last
message of every kernel.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from checkpoint.manifest import Body, Part, encode_body
from gateway.dial import AgentLink
from gateway.errors import GatewayError, RemoteError
from gateway.frames import EVENT, IOPUB
from gateway.shim_link import ShimLink
from sessionkeeper.addresses import Addresses, address_of

__all__ = ["NODE", "SESSION"]

NODE, SESSION = "bench", "default"

_TICK = 0.005
_HEADER = (
    b'{"msg_id": "%d", "msg_type": "stream", "session": "bench", "username": "bench",'
    b' "version": "5.3", "date": "2000-01-01T00:00:00Z"}'
)
_SPEC = {"argv": ["bench"], "display_name": "bench", "language": "bench"}


class Kernel:
    """One kernel: `number` is that of the last message it said."""

    def __init__(self, kernel_id: str) -> None:
        self.id = kernel_id
        self.link = ShimLink()
        self.number = 0

    def say(self, epoch: int, padding: bytes) -> None:
        """The next message."""
        self.number += 1
        content = b'{"name": "stdout", "text": "%d %d %s"}' % (
            self.number,
            time.monotonic_ns(),
            padding,
        )
        self.link.produce(epoch, IOPUB, [_HEADER % self.number, b"{}", b"{}", content])


class Node:
    """The agent of all of them."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._epoch = 0
        self._agent: AgentLink | None = None
        self._kernels: dict[str, Kernel] = {}
        self._addresses = Addresses(lambda: ((SESSION, one) for one in self._kernels))
        self._rate = 0.0
        self._padding = b""

    async def run(self) -> None:
        """Stay connected, until standard input ends."""
        orders = asyncio.create_task(self._orders())
        tasks = [asyncio.create_task(self._stay_connected()), asyncio.create_task(self._talk())]
        await orders
        for task in tasks:
            task.cancel()

    async def _orders(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = json.loads(line)
            self._rate = order["rate"]
            self._padding = b"x" * max(0, order["size"] - 40)
            said = {kernel.id: kernel.number for kernel in self._kernels.values()}
            print(json.dumps(said), flush=True)

    async def _stay_connected(self) -> None:
        while True:
            with contextlib.suppress(GatewayError):
                await self._connect()
            await asyncio.sleep(0.05)

    async def _connect(self) -> None:
        hello = {
            "node": NODE,
            "instance": NODE,
            "tier": "on-demand",
            "runtime": "container",
            "engines": ["criu"],
            "kernelspecs": {"python3": {"name": "python3", "spec": _SPEC, "resources": {}}},
            "sessions": {SESSION: self._epoch} if self._epoch else {},
        }
        self._agent = await AgentLink.connect(
            self._url,
            self._token,
            hello,
            on_call=self._called,
            on_event=lambda _: None,
            on_frame=self._received,
        )
        for kernel in self._kernels.values():
            kernel.link.connected(self._epoch)
            self._flush(kernel)
        beats = asyncio.create_task(self._beat(self._agent))
        try:
            await self._agent.wait_closed()
        finally:
            beats.cancel()
            self._agent = None
            for kernel in self._kernels.values():
                kernel.link.disconnected()

    async def _beat(self, agent: AgentLink) -> None:
        while True:
            agent.send_event({"event": "heartbeat", "sent": time.monotonic()})
            await asyncio.sleep(0.25)

    def _received(self, address: str, frame: bytes) -> None:
        _, kernel_id = self._addresses.find(address) or ("", "")
        kernel = self._kernels.get(kernel_id)
        if kernel is not None:
            kernel.link.receive(frame, self._epoch)
            self._flush(kernel)

    def _flush(self, kernel: Kernel) -> None:
        if self._agent is not None:
            while (frame := kernel.link.next_frame(self._epoch)) is not None:
                self._agent.send_frame(address_of(SESSION, kernel.id), frame)

    async def _talk(self) -> None:
        """Say what the rate asks for, kernel after kernel."""
        loop = asyncio.get_running_loop()
        owed, turn, then = 0.0, 0, loop.time()
        while True:
            await asyncio.sleep(_TICK)
            now = loop.time()
            owed = min(owed + self._rate * (now - then), self._rate) if self._rate else 0.0
            then = now
            kernels = list(self._kernels.values())
            while owed >= 1 and kernels:
                owed -= 1
                kernel = kernels[turn % len(kernels)]
                turn += 1
                if not kernel.link.full:  # as the shim does: then the kernel waits
                    kernel.say(self._epoch, self._padding)
                    self._flush(kernel)

    # -- what a gateway asks -------------------------------------------------------------------

    async def _called(self, method: str, params: dict[str, Any]) -> Any:
        answer = getattr(self, "_" + method.replace(".", "_"), None)
        if answer is None:
            raise RemoteError({"code": "unknown", "message": f"There is no {method} here."})
        return answer(**params)

    def _session_open(self, epoch: int, kernels: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        self._epoch = epoch
        for kernel in kernels:
            self._kernel_start(kernel["kernel_id"])
        outcome = {k["kernel_id"]: {"state": "started", "why": None} for k in kernels}
        return {"kernels": outcome, "refused": [], "seconds": {}}

    def _session_take_up(self, **_: Any) -> dict[str, Any]:
        there = {"epoch": self._epoch, "kernels": sorted(self._kernels), "writes": 0}
        return {**there, **self._session_status()}

    def _session_status(self, **_: Any) -> dict[str, Any]:
        return {"gone": [], "damage": None}

    def _session_close(self, **_: Any) -> None:
        self._epoch = 0

    def _session_checkpoint(self, **_: Any) -> dict[str, Any]:
        parts = {kernel_id: Part("criu", None, {"name": "python3"}) for kernel_id in self._kernels}
        body = Body(processes=parts, meta={"writes": 0, "engine": "criu"})
        encoded = base64.b64encode(encode_body(body)).decode()
        return {"body": encoded, "pause": 0.01, "stored": 0, "seconds": {}, "lost": {}}

    def _kernel_start(self, kernel_id: str, **_: Any) -> None:
        kernel = self._kernels[kernel_id] = Kernel(kernel_id)
        kernel.link.connected(self._epoch)
        kernel.link.produce(self._epoch, EVENT, [b'{"event": "started"}'])
        self._flush(kernel)

    def _kernel_stop(self, kernel_id: str, **_: Any) -> None:
        self._kernels.pop(kernel_id, None)


def main(argv: list[str]) -> None:
    token = Path(argv[2]).read_text().strip()
    uvloop.run(Node(argv[1], token).run())


if __name__ == "__main__":
    main(sys.argv)
