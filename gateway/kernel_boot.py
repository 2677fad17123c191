"""Runs a kernel written in Python so that no output is dropped, and who prints waits for no more
than is needed, which is that the shim takes it; with imports done before if asked.

The shim copies this file beside the kernel's sockets and runs it with the kernel's own Python
(>= 3.8):

    python boot.py PREFIX -m ipykernel_launcher -f connection.json
    python boot.py PREFIX kernel.py connection.json
    python boot.py PREFIX --warm ipykernel.kernelapp,...

The last form imports, then waits for one line of JSON on stdin, `{"argv", "env", "cwd"}`, and
becomes that kernel. Either way the kernel sees what it would see under `python -m`: sys.argv,
sys.path, __main__, environment, signals.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from typing import Any, Sequence  # noqa: UP035

# Messages in libzmq, on each side: they may be large.
HIGH_WATER = 10
# Bytes, or characters, that a kernel has printed and that are not in libzmq yet.
ROOM = 2 << 20
# Characters from which on a text is worth being packed by itself.
TEXT = 1 << 12
# What JSON has no short word for, and escapes: all control characters but these.
_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\u001b"}
_ESCAPED = [(char.encode(), word.encode()) for char, word in _SHORT.items()]
_OTHERS = bytes(code for code in range(32) if chr(code) not in _SHORT)


def never_drop(prefix: str) -> None:
    """Make iopub wait for the shim instead of dropping what exceeds its high-water mark.

    Takes itself back with the first PUB socket bound below `prefix`, the kernel's own. libzmq:
    ZMQ_XPUB_NODROP, ZMQ_SNDHWM.
    """
    try:
        import zmq
    except ImportError:
        return
    sockets: Any = zmq.Socket
    original = sockets.bind

    def bind(self: Any, address: Any, *args: Any, **kwargs: Any) -> Any:
        if self.type in (zmq.PUB, zmq.XPUB) and str(address).startswith(prefix):
            self.setsockopt(zmq.XPUB_NODROP, 1)
            self.setsockopt(zmq.SNDHWM, HIGH_WATER)
            sockets.bind = original
            iostream = sys.modules.get("ipykernel.iostream")
            room = wait_for_room(iostream)
            print_fast(iostream)
            flush_what_there_is(iostream, room)
            pack_text_fast(sys.modules.get("jupyter_client.session"))
        return original(self, address, *args, **kwargs)

    sockets.bind = bind


class _Room:
    """Bytes on their way to the thread that sends. Whoever adds some waits while there are too
    many; that thread itself never does.
    """

    def __init__(self) -> None:
        self._anew()
        os.register_at_fork(after_in_child=self._anew)

    def _anew(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0

    def add(self, size: int) -> None:
        with self._changed:
            self._waiting += size
            self._changed.notify_all()

    def __bool__(self) -> bool:
        return self._waiting != 0

    def wait(self, thread: Any) -> None:
        if threading.current_thread() is thread:
            return
        with self._changed:
            while self._waiting > ROOM and thread.is_alive():
                self._changed.wait(1.0)


def wait_for_room(iostream: Any) -> _Room | None:
    """Make whoever prints wait while the shim takes nothing. ipykernel (iostream.py) by itself
    keeps what it cannot send in memory, without bound. Returns what is true while anything is on
    its way; None where that cannot be told.
    """
    if not all(hasattr(iostream, name) for name in ("IOPubThread", "OutStream")):
        return None
    threads: Any = iostream.IOPubThread
    streams: Any = iostream.OutStream
    room, write = _Room(), streams.write
    unflushed: dict[str, int] = {}

    def send_multipart(self: Any, msg: Any, *args: Any, **kwargs: Any) -> None:
        if threading.current_thread() is self.thread and not getattr(self, "_events", True):
            self._really_send(msg, *args, **kwargs)  # its turn has come, nothing is before it
            return
        size = sum(getattr(part, "nbytes", None) or len(part) for part in msg)

        def send() -> None:
            try:
                self._really_send(msg, *args, **kwargs)
            finally:
                room.add(-size)

        self.schedule(send)
        room.add(size)
        room.wait(self.thread)

    def write_and_wait(self: Any, string: str) -> Any:
        written = write(self, string)
        unflushed[self.name] = unflushed.get(self.name, 0) + len(string)
        if unflushed[self.name] > ROOM:
            unflushed[self.name] = 0
            self.flush()
            room.wait(self.pub_thread.thread)
        return written

    threads.send_multipart = send_multipart
    streams.write = write_and_wait
    streams.flush_timeout = 365 * 86400.0  # a print that is waited for has not failed
    return room


def flush_what_there_is(iostream: Any, room: _Room | None) -> None:
    """Make who flushes when all is sent go on at once. ipykernel flushes six times for a cell that
    shows something, and each time wakes the thread that sends and waits for it.
    """
    streams: Any = getattr(iostream, "OutStream", None)
    if room is None or not hasattr(streams, "_flush"):
        return
    flush, send = streams.flush, streams._flush

    def send_noted(self: Any) -> None:
        room.add(1)  # what is taken out of the buffer is not in libzmq yet
        try:
            send(self)
        finally:
            room.add(-1)

    def flush_something(self: Any) -> None:
        # In this order: who empties the buffer has noted it before.
        if getattr(self, "_buffers", True) or room or getattr(self, "echo", None) is not None:
            flush(self)

    streams._flush = send_noted
    streams.flush = flush_something


def print_fast(iostream: Any) -> None:
    """Make write and flush one step of the thread that sends. ipykernel (iostream.py) by itself
    takes four, each with a ZeroMQ message between its threads, and sets a timer each time.

    All is said in the same order, and who flushes waits until libzmq has it.
    """
    threads: Any = getattr(iostream, "IOPubThread", None)
    streams: Any = getattr(iostream, "OutStream", None)
    if not hasattr(threads, "_handle_event") or not hasattr(streams, "_schedule_flush"):
        return

    def schedule(self: Any, action: Any) -> None:
        if self.thread.is_alive():
            self._events.append(action)
            self.io_loop.add_callback(self._handle_event, None)
        else:
            action()

    def flush(self: Any) -> None:
        thread = getattr(self.pub_thread, "thread", None)
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            self._flush()
            return
        done = threading.Lock()
        done.acquire()

        def flush_and_tell() -> None:
            try:
                self._flush()
            finally:
                done.release()

        self.pub_thread.schedule(flush_and_tell)
        done.acquire()

    due: dict[str, float] = {}  # when a stream's timer has fired, at the latest

    def schedule_flush(self: Any) -> None:
        now = time.monotonic()
        if now < due.get(self.name, 0.0):
            return
        # Set again after a while, as an interrupt may come between these two steps.
        due[self.name] = now + self.flush_interval + 1.0

        def fired() -> None:
            due[self.name] = 0.0
            self._flush()

        def later() -> None:
            self._io_loop.call_later(self.flush_interval, fired)

        self.pub_thread.schedule(later)

    threads.schedule = schedule
    streams.flush = flush
    streams._schedule_flush = schedule_flush


def pack_text_fast(session: Any) -> None:
    """Pack long texts without looking at each of their characters three times. jupyter_client
    (session.py) has them escaped, copied into the JSON around them, and encoded.

    What is sent is the same, byte by byte.
    """
    sessions: Any = getattr(session, "Session", None)
    pack = getattr(session, "json_packer", None)
    if pack is None or not hasattr(sessions, "serialize"):
        return
    serialize = sessions.serialize

    def serialize_fast(self: Any, msg: Any, *args: Any, **kwargs: Any) -> Any:
        content = msg.get("content")
        if isinstance(content, dict) and self.pack is pack:
            packed = packed_with_texts(content, pack)
            if packed is not None:
                msg = {**msg, "content": packed}
        return serialize(self, msg, *args, **kwargs)

    sessions.serialize = serialize_fast


def packed_with_texts(content: dict[str, Any], pack: Any) -> bytes | None:
    """What `pack` makes of it, faster where it has a long text, by itself or in a mime bundle; None
    where it has none, or cannot be told.
    """
    texts: list[str] = []
    token = ""

    def short(value: Any) -> Any:
        nonlocal token
        if type(value) is str and len(value) >= TEXT:
            token = token or os.urandom(16).hex()
            texts.append(value)
            return token
        return value

    outline = {
        key: {name: short(one) for name, one in value.items()}
        if type(value) is dict
        else short(value)
        for key, value in content.items()
    }
    if not texts:
        return None
    try:
        pieces = pack(outline).split(token.encode())
        escaped = [escaped_text(text) for text in texts]
    except (TypeError, ValueError):
        return None  # whoever packs all of it says it better
    if len(pieces) != len(texts) + 1:
        return None
    whole = [b""] * (len(pieces) + len(escaped))
    whole[::2], whole[1::2] = pieces, escaped
    return b"".join(whole)


def escaped_text(text: str) -> bytes:
    """As `json.dumps(text, ensure_ascii=False)` without the quotes, in UTF-8."""
    data = text.encode("utf8", "surrogateescape")
    for at in range(0, len(data), 1 << 16):  # in pieces that fit into the processor's cache
        piece = data[at : at + (1 << 16)]
        if len(piece.translate(None, _OTHERS)) != len(piece):
            whole = json.dumps(text, ensure_ascii=False)
            return whole[1:-1].encode("utf8", "surrogateescape")
    for char, word in _ESCAPED:
        data = data.replace(char, word)
    return data


def wait_for_order(modules: Sequence[str]) -> list[str]:
    """Import `modules`, wait for the order; its argv. Ends the process when the shim goes away."""
    for module in modules:
        try:
            __import__(module)
        except Exception:  # noqa: S112 - the kernel will say it better
            continue
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    order = json.loads(line)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    argv: list[str] = order["argv"]
    return argv


def main() -> None:
    prefix, argv = sys.argv[1], sys.argv[2:]
    never_drop(prefix)
    if argv[0] == "--warm":
        argv = wait_for_order(argv[1].split(","))
    if argv[0] != "-m":
        sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
        return
    if argv[1] == "ipykernel_launcher":
        # It waits in case its output gets lost before the reply; here it does not get lost.
        argv.append("--Kernel._execute_sleep=0")
    sys.path[0] = os.getcwd()
    sys.argv = argv[1:]  # run_module puts the path at [0]
    runpy.run_module(argv[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
