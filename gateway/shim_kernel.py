"""The kernel as its shim holds it: the process, and the ZMQ side of its five channels.

Standard library and pyzmq, Python >= 3.8. Nothing in it that CRIU could not dump.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from typing import Any, Iterator, NamedTuple, Sequence  # noqa: UP035

import zmq

from gateway.frames import CONTROL, IOPUB, MESSAGE_LIMIT, SHELL, STDIN
from gateway.kernel_boot import HIGH_WATER

DELIMITER = b"<IDS|MSG>"
# Read when an interpreter starts, so a warm one cannot take them over.
_STARTUP_ENV = re.compile(
    r"PYTHON|LD_|GLIBC_|LC_|LANG|HOME$|TZ$|MALLOC_|VIRTUAL_ENV$|CONDA_PREFIX$"
)
# What ipykernel's own kernelspec says (ipykernel/kernelspec.py): the debugger wants it.
_OPTIONS = ["-Xfrozen_modules=off"] if sys.version_info >= (3, 11) else []
# As numbers: pyzmq's enumerations take longer than what is asked for with them.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
# Bytes up to which a part is copied out of ZeroMQ's memory.
_COPIED = 1 << 16
_PORTS = {SHELL: 1, IOPUB: 2, STDIN: 3, CONTROL: 4}
_TYPES = {SHELL: zmq.DEALER, IOPUB: zmq.SUB, STDIN: zmq.DEALER, CONTROL: zmq.DEALER}


class Message(NamedTuple):
    """A message of the kernel: header, parent_header, metadata, content, buffers. Large parts are
    views.
    """

    channel: int
    parts: list[Any]


def program_at(argv: Sequence[str]) -> int:
    """Index of the `-m` in `python [options] -m something …`, or of the script in `python [options]
    script.py …`, which kernel_boot can run; else 0.
    """
    if argv and re.fullmatch(r"python[0-9.]*", os.path.basename(argv[0])):
        at = 1
        while at + 1 < len(argv):
            if argv[at] == "-m" or not argv[at].startswith("-"):
                return at
            if re.match(r"-(X|W|[bBdEOqsSu]+$)", argv[at]) is None:
                break
            at += 2 if argv[at] in ("-X", "-W") else 1
    return 0


class Kernel:
    """One kernel process and its sockets. Sockets are connected once the kernel has bound them."""

    def __init__(self, ipc_dir: str) -> None:
        self.ipc_dir = ipc_dir
        self.session = uuid.uuid4().hex
        self.sockets: dict[int, Any] = {}
        self._peers = self._rcvhwm = 0
        self.waits = False  # with what it prints, until we take it
        self._still = False
        self.process: subprocess.Popen[bytes] | None = None
        self.errors: int | None = None  # read end of the kernel's stdout and stderr
        self.last_words = b""
        self.interrupt_mode = "signal"
        self._context = zmq.Context()
        self._warm: tuple[subprocess.Popen[bytes], int, str, dict[str, str]] | None = None
        self._mac = hmac.new(b"", digestmod=hashlib.sha256)
        self._prefix = os.path.join(ipc_dir, "k")
        os.makedirs(ipc_dir, mode=0o700, exist_ok=True)

    # -- process ------------------------------------------------------------------------------

    def warm(self, modules: Sequence[str]) -> None:
        """Hold an interpreter ready that has imported these modules."""
        process, errors = self._spawn(
            [sys.executable, *_OPTIONS, self._boot(), self._url(), "--warm", ",".join(modules)],
            dict(os.environ),
            os.getcwd(),
            stdin=subprocess.PIPE,
        )
        self._warm = (process, errors, os.path.abspath(sys.executable), dict(os.environ))

    def start(self, spec: dict[str, Any]) -> int:
        """Start the kernel of `{argv, env, cwd, interrupt_mode}`; its pid. `env` goes over ours.

        Raises OSError when the command cannot be run.
        """
        env = {**os.environ, **(spec.get("env") or {})}
        # Kernels that watch this would end when PID 1 is their parent.
        env.pop("JPY_PARENT_PID", None)
        cwd = spec.get("cwd") or os.getcwd()
        self.interrupt_mode = spec.get("interrupt_mode") or "signal"
        argv = [a.replace("{connection_file}", self._connection_file()) for a in spec["argv"]]
        waits = program_at(argv)
        self._take_warm(argv, env, cwd)
        if self.process is None:
            if waits:
                argv = [*argv[:waits], self._boot(), self._url(), *argv[waits:]]
            self.process, self.errors = self._spawn(argv, env, cwd)
        # A kernel that waits for us is held back; of one that would drop we take all there is.
        self.waits = bool(waits)
        self._rcvhwm = HIGH_WATER if waits else 0
        self._open_sockets()
        return self.process.pid

    def reconnect(self) -> None:
        """Connect anew, as another peer: the kernel may still believe in the former one."""
        for socket in self.sockets.values():
            socket.close()
        self._open_sockets()

    def _open_sockets(self) -> None:
        self._peers += 1
        for channel, kind in _TYPES.items():
            socket = self._context.socket(kind)
            socket.linger = 0
            socket.sndhwm = 0
            socket.rcvhwm = self._rcvhwm
            socket.reconnect_ivl = 10
            if kind == zmq.DEALER:
                # The same on all: the kernel asks on stdin whoever spoke on shell.
                socket.identity = f"{self.session}-{self._peers}".encode()
            else:
                socket.subscribe(b"")
            self.sockets[channel] = socket
        self._unconnected = dict(_PORTS)

    def _take_warm(self, argv: Sequence[str], env: dict[str, str], cwd: str) -> None:
        if self._warm is None:
            return
        (process, errors, python, had), self._warm = self._warm, None
        found = os.path.abspath(shutil.which(argv[0], path=env.get("PATH")) or argv[0])
        same = all(
            env.get(k) == had.get(k) for k in {*env, *had} if _STARTUP_ENV.match(k) is not None
        )
        at = program_at(argv)
        if (
            at
            and argv[at] == "-m"
            and list(argv[1:at]) in ([], _OPTIONS)
            and found == python
            and same
        ):
            order = {"argv": argv[at:], "env": env, "cwd": cwd}
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.close()
                self.process, self.errors = process, errors
                return
            except OSError:
                pass
        process.kill()
        os.close(errors)

    def _spawn(
        self, argv: Sequence[str], env: dict[str, str], cwd: str, stdin: int = subprocess.DEVNULL
    ) -> tuple[subprocess.Popen[bytes], int]:
        # A pipe and not a file: it holds little, and a dump needs nothing outside for it.
        read, write = os.pipe()
        os.set_blocking(read, False)
        try:
            process = subprocess.Popen(
                list(argv),
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=write,
                stderr=write,
                start_new_session=True,
            )
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        return process, read

    def _boot(self) -> str:
        path = os.path.join(self.ipc_dir, "boot.py")
        source = os.path.join(os.path.dirname(__file__), "kernel_boot.py")
        loader = globals()["__loader__"]
        with open(path, "wb") as file:
            file.write(loader.get_data(source))
        return path

    def _url(self) -> str:
        return "ipc://" + self._prefix

    def _connection_file(self) -> str:
        for name in os.listdir(self.ipc_dir):
            if name.startswith("k"):
                os.unlink(os.path.join(self.ipc_dir, name))
        key = secrets.token_hex(32)
        self._mac = hmac.new(key.encode(), digestmod=hashlib.sha256)
        path = os.path.join(self.ipc_dir, "kernel.json")
        info = {
            "transport": "ipc",
            "ip": self._prefix,
            "shell_port": _PORTS[SHELL],
            "iopub_port": _PORTS[IOPUB],
            "stdin_port": _PORTS[STDIN],
            "control_port": _PORTS[CONTROL],
            "hb_port": 5,
            "key": key,
            "signature_scheme": "hmac-sha256",
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(info, file)
        return path

    def signal(self, number: int) -> None:
        """To the kernel and what it started; nothing if it has ended."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stand_still(self, still: bool) -> None:
        """Stop the process, or let it go on: one that does not wait would drop what it prints."""
        if still != self._still and self.process is not None and self.process.returncode is None:
            self._still = still
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGSTOP if still else signal.SIGCONT)

    def interrupt(self) -> None:
        """SIGINT, or an interrupt_request where the kernelspec asks for messages."""
        if self.interrupt_mode == "message":
            self.request(CONTROL, "interrupt_request", {})
        else:
            self.signal(signal.SIGINT)

    def reaped(self, pid: int, status: int) -> bool:
        """Note that a child has ended; True if it was the kernel."""
        if self.process is None or pid != self.process.pid:
            return False
        self.process.returncode = (
            -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        )
        return True

    def how_it_ended(self) -> dict[str, int | None]:
        """Its exit code, or the signal that killed it."""
        code = self.process.returncode if self.process is not None else None
        return {
            "code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
        }

    def read_errors(self) -> None:
        """Keep the last words of the kernel's stderr (4 KiB)."""
        assert self.errors is not None
        try:
            data = os.read(self.errors, 65536)
        except BlockingIOError:
            return
        if data:
            self.last_words = (self.last_words + data)[-4096:]
        else:
            os.close(self.errors)
            self.errors = None

    def close(self) -> None:
        """The kernel has ended: close its sockets."""
        for socket in self.sockets.values():
            socket.close()
        self.sockets.clear()
        if self.errors is not None:
            os.close(self.errors)
            self.errors = None
        self.process = None
        self._still = False

    # -- messages -----------------------------------------------------------------------------

    def connect(self) -> bool:
        """Connect to the sockets that the kernel has bound; True when to all.

        Kernels build ipc addresses as `path-port` (Python) or `path:port` (R, as for TCP).
        """
        for channel, port in list(self._unconnected.items()):
            for path in (f"{self._prefix}-{port}", f"{self._prefix}:{port}"):
                if os.path.exists(path):
                    self.sockets[channel].connect("ipc://" + path)
                    del self._unconnected[channel]
        return not self._unconnected

    def send(self, channel: int, parts: Sequence[Any]) -> None:
        """Sign and send a message of header, parent, metadata, content, buffers."""
        mac = self._mac.copy()
        for part in parts[:4]:
            mac.update(part)
        self.sockets[channel].send_multipart(
            [DELIMITER, mac.hexdigest().encode(), *parts], copy=len(parts) <= 4
        )

    def request(self, channel: int, kind: str, content: dict[str, Any]) -> str:
        """A request of our own; its msg_id. The answers are recognised by `ours`."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": self.session,
            "username": "shim",
            "version": "5.3",
            "date": "1970-01-01T00:00:00Z",
        }
        self.send(
            channel, [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        )
        return msg_id

    def ours(self, message: Message) -> bool:
        """Whether a message answers one of our own requests."""
        return self.session.encode() in message.parts[1]

    def messages(self, channel: int, most: int) -> Iterator[Message]:
        """Up to `most` messages waiting on a channel; wrongly signed ones are left out."""
        socket = self.sockets[channel]
        for _ in range(most):
            if not socket.get(_EVENTS) & _POLLIN:  # Again, raised, would take far longer
                return
            frames = _received(socket)
            try:
                at = frames.index(DELIMITER)
            except ValueError:
                continue
            signature, parts = frames[at + 1], frames[at + 2 :]
            mac = self._mac.copy()
            for part in parts[:4]:
                mac.update(part)
            if len(parts) >= 4 and hmac.compare_digest(mac.hexdigest().encode(), signature):
                size, message = sum(map(len, parts)), Message(channel, parts)
                long = size > MESSAGE_LIMIT
                yield Message(channel, too_long(message, size)) if long else message


def _received(socket: Any) -> list[Any]:
    """A message's frames; large ones as they lie there. Faster than `recv_multipart` is."""
    frames, more = [], True
    while more:
        frame = socket.recv(0, False)
        frames.append(frame.bytes if len(frame) < _COPIED else frame.buffer)
        more = frame.more
    return frames


def too_long(message: Message, size: int) -> list[bytes]:
    """What is said in place of a message that nothing carries: to stderr, or as the reply."""
    words = f"A message of {size} bytes was left out: {MESSAGE_LIMIT} is the most there can be."
    header = json.loads(message.parts[0])
    content: dict[str, Any] = {"name": "stderr", "text": words + "\n"}
    if message.channel != IOPUB:
        content = {"status": "error", "ename": "MessageTooLong", "evalue": words, "traceback": []}
    else:
        header["msg_type"] = "stream"
    return [json.dumps(header).encode(), message.parts[1], b"{}", json.dumps(content).encode()]
