"""PID 1 beside a kernel: starts it, speaks ZMQ with it, and keeps what is not acknowledged.

    python shim.pyz CONFIG.json

Standard library and pyzmq, Python >= 3.8, one thread, no file descriptors that CRIU cannot dump.
It is inside the process tree that is dumped: `ShimLink` in it *is* the kernel's position in a
checkpoint. docs/link-protocol.md §4 has the agent's side.

CONFIG: `kernel_id`, `listen` `{"unix": path}` or `{"tcp": [host, port]}`, `token`, `epoch_file`
(10 decimal digits) or `epoch`, `ipc_dir` (short path, ours alone), `kernel` `{argv, env, cwd,
interrupt_mode, language}` or null (then the agent calls `start`), `next_seq`, `applied`, `preload`
(modules that a waiting interpreter imports ahead of `start`), `output_limit` (bytes of output that
are kept unacknowledged before the kernel is held back).
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Sequence  # noqa: UP035

import zmq

from gateway.frames import (
    EVENT,
    IOPUB,
    LOCAL,
    SHELL,
    LinkError,
    decode_local,
    decode_payload,
    encode_local,
    kind_of,
)
from gateway.shim_agent import AgentSocket, Closed, listen
from gateway.shim_calls import ShimCalls, answer_error
from gateway.shim_dropped import Dropped
from gateway.shim_haste import BEGINS, Haste, patience
from gateway.shim_kernel import Kernel, Message
from gateway.shim_link import OUTPUT_LIMIT, ShimLink
from gateway.shim_streams import Streams

STARTING = "starting"
# How long a kernel that ended may still be heard: its last messages are in flight (seconds).
QUIET = 0.05
# How long a kernel that stands still is let go on to follow a signal (seconds).
MOVES = 1.0


class Shim:
    """The loop. All state that matters is in `link`; the rest can be built again."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.link = ShimLink(
            int(config.get("next_seq") or 1),
            int(config.get("applied") or 0),
            int(config.get("output_limit") or OUTPUT_LIMIT),
        )
        self.kernel = Kernel(config["ipc_dir"])
        self.ready = self.ending = False
        self.dropped, self._streams, self._haste = Dropped(self._emit), Streams(), Haste()
        self.pid: int | None = None
        self.quiet_at: float | None = None
        self._probe_at, self._connecting = 0.0, 0
        self._probed = self._heard = False
        self._kill_at: float | None = None
        self._moves_until: float | None = None
        self.stops: list[tuple[AgentSocket, Any]] = []
        self.executes: dict[str, tuple[AgentSocket, Any, float]] = {}
        self._epoch_fd = (
            os.open(config["epoch_file"], os.O_RDONLY) if "epoch_file" in config else -1
        )
        self._agent: AgentSocket | None = None
        self._strangers: deque[AgentSocket] = deque()
        self._calls = ShimCalls(self)
        self._watched: tuple[Any, ...] = ()
        self._pollers: dict[Any, tuple[Any, dict[Any, Callable[[], None]]]] = {}
        self._listener = listen(config["listen"])
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._terminate())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if config.get("preload"):
            self.kernel.warm(config["preload"])
        if config.get("kernel"):
            self.start(config["kernel"])

    @property
    def epoch(self) -> int:
        """Read for every message: after a restore another file is at its place."""
        said = os.pread(self._epoch_fd, 10, 0) if self._epoch_fd >= 0 else self.config["epoch"]
        return int(said)

    @property
    def _drops(self) -> int | None:
        """The kernel's pid, if it is one that drops what it cannot send."""
        return None if self.kernel.waits else self.pid

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Until SIGTERM; the exit code."""
        while not (self.ending and self.pid is None):
            for what in self._wait():
                what()
            self._reap()
            self._deadlines(time.monotonic())
            self._flush(time.monotonic())
        self._flush(float("inf"))
        return 0

    def _wait(self) -> list[Callable[[], None]]:
        agent, sockets = self._agent, tuple(self.kernel.sockets.values())
        watched = (agent, sockets, self.kernel.errors, *self._strangers)
        if watched != self._watched:
            self._watched, self._pollers = watched, {}
        now = time.monotonic()
        deaf = self.link.full or self._streams.gathers(now) is not None
        how = (deaf, agent is not None and agent.pending)
        if how not in self._pollers:  # seldom; one is asked for every message
            self._pollers[how] = self._watch(deaf)
        poller, todo = self._pollers[how]
        return [todo[key] for key, _ in poller.poll(self._timeout(now))]

    def _watch(self, deaf: bool) -> tuple[Any, dict[Any, Callable[[], None]]]:
        poller = zmq.Poller()
        todo: dict[Any, Callable[[], None]] = {
            self._wake: self._drain_wakeups,
            self._listener.fileno(): self._accept,
        }
        for stranger in self._strangers:
            todo[stranger.fileno()] = partial(self._read_agent, stranger)
        if self.kernel.errors is not None:
            todo[self.kernel.errors] = self.kernel.read_errors
        for channel, sock in self.kernel.sockets.items():
            if channel != IOPUB or not deaf:
                todo[sock] = partial(self._read_kernel, channel)
        for key in todo:
            poller.register(key, zmq.POLLIN)
        agent = self._agent
        if agent is not None:
            writes = zmq.POLLOUT if agent.pending else 0
            poller.register(agent.fileno(), zmq.POLLIN | writes)
            todo[agent.fileno()] = partial(self._read_agent, agent)
        return poller, todo

    def _timeout(self, now: float) -> int | None:
        ends = (self.quiet_at, self._kill_at, self._moves_until, self.dropped.ends.next)
        at = [t for t in (*ends, self._haste.until, self._streams.gathers(now)) if t is not None]
        at += [deadline for _, _, deadline in self.executes.values()]
        if self.pid is not None and not self.ready:
            at.append(now + 0.005)
        return max(0, int((min(at) - now) * 1000) + 1) if at else None

    def _deadlines(self, now: float) -> None:
        if self._moves_until is not None and now >= self._moves_until:
            self._moves_until = None
        if not self.kernel.waits:
            self.kernel.stand_still(self.link.full and self._moves_until is None)
            self.dropped.look(now, self._drops, self.link.full)
        if self.pid is not None and not self.ready:
            self._become_ready(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self.kernel.signal(signal.SIGKILL)
        heard_out = self.ending or not self.link.full
        if self.quiet_at is not None and now >= self.quiet_at and heard_out:
            self._exited()
        for msg_id, (agent, call, deadline) in list(self.executes.items()):
            if now >= deadline:
                del self.executes[msg_id]
                answer_error(agent, call, "timeout", "the kernel did not answer in time")

    def _drain_wakeups(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake, 4096)

    def _flush(self, now: float) -> None:
        agent = self._agent
        if agent is None or not (agent.pending or agent.said or self._haste.due(now)):
            return
        try:
            agent.flush(lambda: self.link.next_pieces(self.epoch))
        except Closed:
            self._drop(agent)

    # -- the kernel ---------------------------------------------------------------------------

    def start(self, spec: dict[str, Any]) -> int:
        self.ready = self._probed = self._heard = False
        self._probe_at = 0.0
        self._connecting = self.epoch
        self.link.pause(STARTING)
        self.pid = self.kernel.start(spec)
        return self.pid

    def _become_ready(self, now: float) -> None:
        """Requests wait until the kernel answers one of ours and its iopub is heard."""
        if self._connecting != self.epoch:
            # Restored in the middle of it: a connection that was half made is never answered.
            self._connecting = self.epoch
            self._probed = self._heard = False
            self._probe_at = 0.0
            self.kernel.reconnect()
        if not self.kernel.connect():
            return
        if now >= self._probe_at:
            self._probe_at = now + (0.02 if self._probed else 0.5)
            self.kernel.request(SHELL, "kernel_info_request", {})

    def _read_kernel(self, channel: int) -> None:
        for message in self.kernel.messages(channel, 200 if channel == IOPUB else 20):
            if self.quiet_at is not None:
                self.quiet_at = time.monotonic() + QUIET
            if channel == IOPUB:
                self._heard = True
            if self.kernel.ours(message):
                self._answered(message)
            elif b'"iopub_welcome"' not in message.parts[0]:
                if channel == IOPUB:
                    self.dropped.heard(message.parts, self._drops)
                elif channel == SHELL and not self.kernel.waits:
                    self.dropped.replied(message.parts)
                self._produce(message)
            if channel == IOPUB and self.link.full:
                break
        self._say_rest()
        if channel == IOPUB and self.kernel.waits:
            self._streams.was_read(time.monotonic())
        if not self.ready and self._probed and self._heard:
            self.ready = True
            self._emit({"event": "started"})
            self.link.resume(self.epoch, STARTING)

    def _answered(self, message: Message) -> None:
        if message.channel != SHELL:
            return
        self._probed = True
        if self.executes:
            msg_id = json.loads(message.parts[1]).get("msg_id")
            agent, call, _ = self.executes.pop(msg_id, (None, None, 0))
            if agent is not None:
                agent.send(encode_local({"id": call, "result": json.loads(message.parts[3])}))

    def _produce(self, message: Message) -> None:
        parts = message.parts
        for said in self._streams.take(parts) if message.channel == IOPUB else (parts,):
            self._say(message.channel, said)

    def _say_rest(self) -> None:
        for parts in self._streams.rest():
            self._say(IOPUB, parts)

    def _say(self, channel: int, parts: Sequence[Any]) -> None:
        self.link.produce(self.epoch, channel, parts)
        busy = channel == SHELL and json.loads(parts[1]).get("msg_id") in self.dropped.ends.busy
        seconds = patience(channel, parts, busy)
        if seconds:
            self._haste.wait(time.monotonic(), seconds)
        else:
            self._haste.hurry()

    def _emit(self, event: dict[str, Any]) -> None:
        self._say_rest()
        self.link.produce(self.epoch, EVENT, [json.dumps(event).encode()])
        self._haste.hurry()
        if self._agent is not None:
            self._agent.send(encode_local(event))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.kernel.reaped(pid, status):
                self.quiet_at = time.monotonic() + QUIET

    def _exited(self) -> None:
        self.quiet_at = self._kill_at = self.pid = None
        self.dropped.ends.clear()
        if self.kernel.errors is not None:
            self.kernel.read_errors()
        ended = self.kernel.how_it_ended()
        words = self.kernel.last_words.decode(errors="replace")
        self.kernel.close()
        self.link.resume(self.epoch, STARTING)
        self._emit({"event": "exited", **ended, "stderr": words})
        for agent, call, _ in self.executes.values():
            answer_error(agent, call, "kernel_ended", "the kernel has ended")
        self.executes.clear()
        for agent, call in self.stops:
            agent.send(encode_local({"id": call, "result": ended}))
        self.stops.clear()

    def _terminate(self, grace: float = 2.0) -> None:
        self.ending = True
        self.stop(grace)

    def let_move(self) -> None:
        """So that it can follow a signal, however much it has printed."""
        self._moves_until = time.monotonic() + MOVES
        self.kernel.stand_still(False)

    def stop(self, grace: float) -> None:
        self.let_move()
        self.kernel.signal(signal.SIGTERM)
        self._kill_at = time.monotonic() + grace

    # -- the agent ----------------------------------------------------------------------------

    def _accept(self) -> None:
        with suppress(OSError):
            self._strangers.append(AgentSocket(self._listener.accept()[0]))
        if len(self._strangers) > 8:
            self._strangers.popleft().close()

    def _read_agent(self, agent: AgentSocket) -> None:
        try:
            for frame in agent.read():
                if agent is self._agent:
                    self._frame(agent, frame)
                elif hmac.compare_digest(bytes(frame), self.config["token"].encode()):
                    self._strangers.remove(agent)
                    if self._agent is not None:
                        self._drop(self._agent)
                    self._agent = agent
                    self.link.connected(self.epoch)
                    self._haste.hurry()
                else:
                    raise Closed("wrong token")
        except (Closed, LinkError):
            self._drop(agent)

    def _drop(self, agent: AgentSocket) -> None:
        agent.close()
        if agent is self._agent:
            self._agent = None
            self.link.disconnected()
            self.stops = [s for s in self.stops if s[0] is not agent]
        elif agent in self._strangers:
            self._strangers.remove(agent)

    def _frame(self, agent: AgentSocket, frame: bytes) -> None:
        if kind_of(frame) == LOCAL:
            self._calls.answer(agent, decode_local(frame))
            return
        try:
            payload = self.link.receive(frame, self.epoch)
        except LinkError as error:
            if error.code != "version_refused":
                raise
            agent.send(encode_local({"event": "refused", "message": str(error)}))
            return
        if payload is None or not payload:
            self._haste.hurry()
            return
        # That it was applied goes with what the kernel says to it.
        self._haste.wait(time.monotonic(), BEGINS)
        channel, parts = decode_payload(payload)
        # A kernel that has ended applies nothing; the gateway answers for it.
        if channel in self.kernel.sockets and channel != IOPUB and len(parts) >= 4:
            self.kernel.send(channel, parts)


def main(argv: list[str]) -> int:
    """Run with the path of a configuration; the exit code."""
    with open(argv[1]) as file:
        config = json.load(file)
    return Shim(config).run()
