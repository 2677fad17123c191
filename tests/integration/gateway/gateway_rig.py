"""A gateway on a socket, an agent with plain child processes, real shims and real kernels."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import struct
import sys
import tempfile
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from gateway.agents import AgentConnection, Agents
from gateway.app import listen, make_app, port_of
from gateway.dial import AgentLink
from gateway.errors import KernelStartFailed, NoCompute, ShimGone
from gateway.kernels import KernelRecord, Kernels
from gateway.observer import KernelExit, Observer
from gateway.options import Options
from gateway.rollback import Rollback
from gateway.shim_archive import build_shim
from gateway.shim_client import ShimClient

TOKEN = "a-secret-token"
SPECS: dict[str, dict[str, Any]] = {
    "python3": {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    },
    "bash": {
        "argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
        "display_name": "Bash",
        "language": "bash",
        "env": {"PS1": "$"},
    },
    "ir": {
        "argv": ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
        "display_name": "R",
        "language": "R",
    },
    "broken": {
        "argv": [sys.executable, "-c", "import sys; sys.exit('no such thing as this kernel')"],
        "display_name": "Broken",
        "language": "none",
    },
}


class Shim:
    """A shim process of the test's agent."""

    def __init__(self, folder: Path, epoch: int, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.epoch = epoch
        self.process = process
        self.client: ShimClient | None = None


class Agent:
    """Runs shims as child processes; relays between them and the gateway."""

    def __init__(self, url: str, folder: Path, token: str = TOKEN) -> None:
        self.url = url
        self.token = token
        self.folder = folder
        self.pyz = build_shim(folder / "shim.pyz")
        self.shims: dict[str, Shim] = {}
        self.link: AgentLink | None = None
        self.preload: list[str] = []

    async def dial(self) -> None:
        self.link = await AgentLink.connect(
            self.url,
            self.token,
            {"node": "n1", "runtime": "process", "sessions": {}},
            on_call=self._call,
            on_frame=self._to_shim,
        )

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        return await getattr(self, method)(**params)

    def _to_shim(self, kernel_id: str, frame: bytes) -> None:
        shim = self.shims.get(kernel_id)
        if shim is not None and shim.client is not None:
            shim.client.send_frame(frame)

    def _from_shim(self, kernel_id: str, frame: bytes) -> None:
        if self.link is not None:
            self.link.send_frame(kernel_id, frame)

    async def start(
        self,
        kernel_id: str,
        name: str,
        epoch: int,
        next_seq: int,
        applied: int,
        env: dict[str, str] | None = None,
    ) -> None:
        spec = SPECS[name]
        folder = Path(tempfile.mkdtemp(prefix="k", dir=self.folder))
        config = {
            "kernel_id": kernel_id,
            "listen": {"unix": str(folder / "shim.sock")},
            "token": "shim-token",
            "epoch_file": str(folder / "epoch"),
            "ipc_dir": str(folder / "ipc"),
            "kernel": {
                "argv": spec["argv"],
                "env": {**spec.get("env", {}), **(env or {})},
                "cwd": str(folder),
            },
            "next_seq": next_seq,
            "applied": applied,
            "output_limit": spec.get("output_limit"),
        }
        (folder / "epoch").write_text(f"{epoch:010d}")
        (folder / "config.json").write_text(json.dumps(config))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(self.pyz), str(folder / "config.json")),
            start_new_session=True,
            # As `sessionkeeper.agent.process` does it.
            env={k: v for k, v in os.environ.items() if k != "KG_AUTH_TOKEN"},
        )
        self.shims[kernel_id] = Shim(folder, epoch, process)
        await self.connect(kernel_id)

    async def connect(self, kernel_id: str) -> None:
        """Connect to the shim, however often the connection was lost."""
        shim = self.shims[kernel_id]
        listens = {"unix": str(shim.folder / "shim.sock")}
        shim.client = None
        while shim.client is None:
            if shim.process.returncode is not None:
                raise KernelStartFailed("The shim ended at once.")
            try:
                shim.client = await ShimClient.connect(
                    listens, "shim-token", functools.partial(self._from_shim, kernel_id)
                )
            except ShimGone:
                await asyncio.sleep(0.005)  # nobody tells when it listens

    async def interrupt(self, kernel_id: str) -> None:
        client = self.shims[kernel_id].client
        assert client is not None
        await client.call("interrupt")

    async def stop(self, kernel_id: str) -> None:
        shim = self.shims.pop(kernel_id, None)
        if shim is None:
            return
        if shim.process.returncode is None:
            shim.process.terminate()
        await shim.process.wait()
        if shim.client is not None:
            shim.client.close()

    async def pull_the_plug(self, kernel_id: str) -> None:
        """SIGKILL to shim and kernel; nobody is told."""
        shim = self.shims.pop(kernel_id)
        assert shim.client is not None
        pid = (await shim.client.call("status"))["pid"]
        shim.client._on_frame = lambda frame: None
        shim.client.close()
        os.kill(shim.process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        await shim.process.wait()

    async def close(self) -> None:
        for kernel_id in list(self.shims):
            await self.stop(kernel_id)
        if self.link is not None:
            await self.link.close()


class Keeper(Observer, Agents):
    """A `Compute` of one node, and notes of all that happened."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.connection: AgentConnection | None = None
        self.epoch = 1
        self.exits: list[KernelExit] = []
        self.rollbacks: list[Rollback] = []
        self.wants: list[str] = []
        self.done: list[str] = []
        self.comes_back: str | None = None
        self.changed = asyncio.Event()

    async def until(self, predicate: Any, seconds: float = 30.0) -> None:
        """Wait for something to be true; looked at whenever something happened."""
        async with asyncio.timeout(seconds):
            while not predicate():
                self.changed.clear()
                await self.changed.wait()

    # Compute
    async def start(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        if self.connection is None:
            raise NoCompute("No node is there.")
        params = {
            "kernel_id": record.id,
            "name": record.name,
            "epoch": self.epoch,
            "next_seq": next_seq,
            "applied": applied,
            "env": record.env,
        }
        await self.connection.call("start", params)
        self.attach(record.id)

    def attach(self, kernel_id: str) -> None:
        assert self.connection is not None
        send = functools.partial(self.connection.send_frame, kernel_id)
        self.kernels.channel(kernel_id).attach_node(send, self.epoch)

    async def stop(self, kernel_id: str, final: bool) -> None:
        assert self.connection is not None
        self.kernels.channel(kernel_id).detach_node()
        await self.connection.call("stop", {"kernel_id": kernel_id})

    async def interrupt(self, kernel_id: str) -> None:
        assert self.connection is not None
        await self.connection.call("interrupt", {"kernel_id": kernel_id})

    async def restart(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        await self.stop(record.id, final=False)
        await self.start(record, next_seq, applied)

    def kernelspecs(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"name": name, "spec": spec, "resources": {"logo-64x64": "logo-64x64.png"}}
            for name, spec in SPECS.items()
        }

    async def kernelspec_resource(self, name: str, file: str) -> bytes | None:
        return b"a picture" if name in SPECS and file == "logo-64x64.png" else None

    # Agents
    def joined(self, connection: AgentConnection, hello: dict[str, Any]) -> None:
        self.connection = connection
        for kernel_id in self.kernels.records:
            self.attach(kernel_id)
        self.changed.set()

    def frame(self, connection: AgentConnection, kernel_id: str, frame: bytes) -> None:
        if kernel_id in self.kernels and connection is self.connection:
            self.kernels.channel(kernel_id).receive(frame)

    def left(self, connection: AgentConnection) -> None:
        if self.connection is connection:
            self.connection = None
            for kernel_id in self.kernels.records:
                self.kernels.channel(kernel_id).detach_node()
        self.changed.set()

    # Observer
    def started(self, kernel_id: str) -> None:
        self.changed.set()

    def exited(self, kernel_id: str, ended: KernelExit) -> str | None:
        self.exits.append(ended)
        self.changed.set()
        return self.comes_back

    def rolled_back(self, rollback: Rollback) -> None:
        self.rollbacks.append(rollback)
        self.changed.set()

    def interrupt_again(self, kernel_id: str) -> None:
        self._interrupts = asyncio.create_task(self.interrupt(kernel_id))

    def wanted(self, kernel_id: str, msg_type: str) -> None:
        self.wants.append(msg_type)

    def request_done(self, kernel_id: str, msg_type: str) -> None:
        self.done.append(msg_type)
        self.changed.set()


class Rig:
    """All of it. `url` is the gateway's."""

    def __init__(self, folder: Path, options: Options | None = None, token: str = TOKEN) -> None:
        self.folder = folder
        self.options = options or Options()
        self.token = token
        self.port = 0
        self._start_gateway()
        (folder / "node").mkdir()
        self.agent = Agent(self.url, folder / "node", token)

    @property
    def url(self) -> str:
        scheme = "https" if self.options.certfile else "http"
        return f"{scheme}://127.0.0.1:{self.port}{self.options.base_url.rstrip('/')}"

    def _start_gateway(self) -> None:
        self.kernels = Kernels(self.folder / "kernels")
        self.keeper = Keeper(self.kernels)
        self.kernels.observer = self.keeper
        self.app = make_app(
            self.kernels, self.keeper, self.token, agents=self.keeper, options=self.options
        )
        self.server = listen(self.app, self.port)
        self.port = port_of(self.server)

    async def restart_gateway(self) -> None:
        """As after a crash: nothing is said to anyone, the journal is as it is."""
        await self.stop_gateway()
        self._start_gateway()

    async def stop_gateway(self) -> None:
        self.server.stop()
        connection, self.keeper.connection = self.keeper.connection, None
        for channel in list(self.kernels._channels.values()):
            channel.detach_node()
            for feed in list(channel.outlet.feeds):
                channel.outlet.detach(feed)
                feed.kernel_gone.__self__.close(1001)  # type: ignore[attr-defined]
        if connection is not None:
            connection.close()
        self.kernels.close()
        await self.server.close_all_connections()

    async def start_kernel(self, name: str = "python3") -> str:
        record = self.kernels.create(name)
        await self.keeper.start(record, next_seq=1, applied=0)
        return record.id

    async def close(self) -> None:
        await self.agent.close()
        await self.stop_gateway()


def header(msg_type: str, session: str) -> dict[str, Any]:
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": msg_type,
        "session": session,
        "username": "test",
        "version": "5.3",
        "date": "2026-01-01T00:00:00Z",
    }


def pack_v1(channel: str, parts: list[bytes]) -> bytes:
    """As browsers do it; our own words, so that two implementations meet."""
    pieces = [channel.encode(), *parts]
    offsets = [8 * (len(pieces) + 2)]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(pieces)


def unpack_v1(frame: bytes) -> dict[str, Any]:
    (count,) = struct.unpack_from("<Q", frame)
    offsets = struct.unpack_from(f"<{count}Q", frame, 8)
    pieces = [frame[a:b] for a, b in pairwise(offsets)]
    return {
        "channel": pieces[0].decode(),
        "header": json.loads(pieces[1]),
        "parent_header": json.loads(pieces[2]),
        "metadata": json.loads(pieces[3]),
        "content": json.loads(pieces[4]),
        "buffers": pieces[5:],
    }


class Client:
    """A client of the resumable protocol that notes all it gets."""

    def __init__(self, rig: Rig, kernel_id: str, session: str | None = None) -> None:
        self.rig = rig
        self.kernel_id = kernel_id
        self.session = session or uuid.uuid4().hex
        self.cursor: int | None = None
        self.journal = ""
        self.got: list[tuple[int, dict[str, Any]]] = []
        self.notices: list[dict[str, Any]] = []
        self.unacked: dict[int, bytes] = {}
        self.requests = 0
        self.socket: ClientConnection | None = None
        self.changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self, cursor: int | None = None) -> Client:
        query = f"session_id={self.session}"
        cursor = self.cursor if cursor is None else cursor
        if cursor is not None:
            query += f"&cursor={cursor}&journal={self.journal}"
        self.socket = await connect(
            f"ws://127.0.0.1:{self.rig.port}/api/kernels/{self.kernel_id}/channels?{query}",
            additional_headers={"Authorization": f"token {TOKEN}"},
            subprotocols=["v1.sessionkeeper"],  # type: ignore[list-item]
            max_size=None,
            compression=None,
            ping_interval=None,
        )
        self._task = asyncio.create_task(self._read(self.socket))
        await self.until(lambda: self.notices)
        for number in sorted(self.unacked):
            await self.socket.send(self.unacked[number])
        return self

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            assert isinstance(frame, bytes)
            number = int.from_bytes(frame[1:9], "big")
            if frame[0] == 1:
                self.cursor = number
                self.got.append((number, unpack_v1(frame[9:])))
            elif frame[0] == 2:
                self.unacked.pop(number, None)
            else:
                notice = json.loads(frame[1:])
                self.notices.append(notice)
                if notice["event"] == "welcome":
                    self.journal = notice["journal"]
                    self.cursor = notice["cursor"]
            self.changed.set()

    async def until(self, predicate: Any, seconds: float = 30.0) -> None:
        """Wait for it as long as something is heard: how long a hundred megabytes take is the
        machine's affair. TimeoutError after ``seconds`` of silence.
        """
        while not predicate():
            self.changed.clear()
            async with asyncio.timeout(seconds):
                await self.changed.wait()

    async def send(self, msg_type: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send a request; its msg_id. Not waited for."""
        head = header(msg_type, self.session)
        parts = [json.dumps(part).encode() for part in (head, {}, {}, content)]
        self.requests += 1
        frame = b"\x01" + self.requests.to_bytes(8, "big") + pack_v1(channel, parts)
        self.unacked[self.requests] = frame
        assert self.socket is not None
        with contextlib.suppress(Exception):
            await self.socket.send(frame)
        return str(head["msg_id"])

    async def ask(self, code: str) -> str:
        return await self.send(
            "execute_request",
            {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": True,
                "stop_on_error": True,
            },
        )

    def of(self, msg_id: str) -> list[dict[str, Any]]:
        """Everything that came for a request, in order."""
        return [m for _, m in self.got if m["parent_header"].get("msg_id") == msg_id]

    def kinds(self, msg_id: str) -> list[str]:
        return [m["header"]["msg_type"] for m in self.of(msg_id)]

    def text(self, msg_id: str) -> str:
        """What a notebook would show: stream text since the last clear_output."""
        shown = ""
        for message in self.of(msg_id):
            kind = message["header"]["msg_type"]
            if kind == "clear_output":
                shown = ""
            elif kind == "stream":
                shown += message["content"]["text"]
        return shown

    def is_done(self, msg_id: str) -> bool:
        messages = self.of(msg_id)
        replied = any(m["header"]["msg_type"].endswith("_reply") for m in messages)
        return replied and any(m["content"].get("execution_state") == "idle" for m in messages)

    async def run(self, code: str, seconds: float = 60.0) -> str:
        """Execute and wait for reply and idle; the msg_id."""
        msg_id = await self.ask(code)
        await self.until(lambda: self.is_done(msg_id), seconds)
        return msg_id

    def reply(self, msg_id: str) -> dict[str, Any]:
        return next(
            m["content"] for m in self.of(msg_id) if m["header"]["msg_type"].endswith("_reply")
        )

    async def close(self) -> None:
        if self.socket is not None:
            await self.socket.close()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
