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
import queue
import runpy
import sys
import threading
import time
import traceback
from typing import Any, Callable, Sequence  # noqa: UP035

# Messages in libzmq, on each side: they may be large.
HIGH_WATER = 10
# Characters that a kernel has printed and that are not in libzmq yet.
ROOM = 2 << 20
# Characters from which on a text is worth being packed by itself.
TEXT = 1 << 12
# What JSON has no short word for, and escapes: all control characters but these.
_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\u001b"}
_ESCAPED = [(char.encode(), word.encode()) for char, word in _SHORT.items()]
_OTHERS = bytes(code for code in range(32) if chr(code) not in _SHORT)
# Seconds that a cell waits for being written into the history: less than a checkpoint waits.
HISTORY = 0.1


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
            if hasattr(iostream, "OutStream") and send_in_own_thread(iostream):
                print_fast(iostream)
            pack_text_fast(sys.modules.get("jupyter_client.session"))
            save_history_later(sys.modules.get("IPython.core.history"))
        return original(self, address, *args, **kwargs)

    sockets.bind = bind


class _Sender(threading.Thread):
    """Sends what a kernel says, in order. It is woken by a lock: ipykernel (iostream.py) wakes its
    own thread by a system call, in which Python lets that one go first, so that whoever says
    something waits for it, several times in each cell.
    """

    pydev_do_not_trace = is_pydev_daemon_thread = True  # a debugger leaves it alone

    def __init__(self) -> None:
        super().__init__(name="IOPub sender", daemon=True)
        self._actions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.flushes = False  # what was printed is taken out of its buffer, and not in libzmq yet

    def do(self, action: Callable[[], None]) -> None:
        """After all that came before; here and now where the thread has ended: after a fork."""
        if self.is_alive():
            self._actions.put(action)
        else:
            action()

    def do_and_wait(self, action: Callable[[], None]) -> None:
        """As `do`; returns when it is done."""
        done = threading.Lock()
        done.acquire()

        def do_and_tell() -> None:
            try:
                action()
            finally:
                done.release()

        self.do(do_and_tell)
        done.acquire()

    def stop(self) -> None:
        """When all is sent."""
        if self.is_alive():
            self._actions.put(None)
            self.join(30)

    def run(self) -> None:
        for action in iter(self._actions.get, None):
            try:
                action()
            except Exception:
                traceback.print_exc(file=sys.__stderr__)


def send_in_own_thread(iostream: Any) -> bool:
    """Have a `_Sender` do what ipykernel's thread for iopub does, but for its timers and for what
    forked processes say. False where that cannot be.

    Who says something waits until libzmq has it, and libzmq waits for the shim; ipykernel by itself
    keeps in memory, without bound, what it cannot send. It also must not wait for Python to let the
    sender go: that may be long, if what follows is a long computation in C. A status is sent before
    what comes next, or when there is nothing to do.
    """
    threads: Any = getattr(iostream, "IOPubThread", None)
    if not all(hasattr(threads, name) for name in ("schedule", "_really_send", "stop")):
        return False
    start, stop = threads.start, threads.stop

    def start_both(self: Any) -> None:
        start(self)
        self.sender = _Sender()
        self.sender.start()

    def stop_both(self: Any) -> None:
        self.sender.stop()
        stop(self)

    def send_multipart(self: Any, msg: Any, *args: Any, **kwargs: Any) -> None:
        def send() -> None:
            self._really_send(msg, *args, **kwargs)

        if threading.current_thread() is self.sender:
            send()  # its turn has come, nothing is before it
        elif bytes(msg[0]).endswith(b".status"):
            self.sender.do(send)
        else:
            self.sender.do_and_wait(send)

    threads.start, threads.stop, threads.send_multipart = start_both, stop_both, send_multipart
    threads.schedule = lambda self, action: self.sender.do(action)
    # It would read from the socket, which is the sender's, to welcome who subscribes. The shim does
    # without.
    threads._setup_xpub_listener = lambda self: None
    return True


def print_fast(iostream: Any) -> None:
    """Make write and flush one step of the thread that sends, or none: ipykernel (iostream.py)
    takes three, and sets a timer each time, and it flushes six times for a cell that shows
    something, mostly for nothing.

    All is said in the same order, and who flushes waits until libzmq has it. So does who prints
    much without a flush.
    """
    streams: Any = iostream.OutStream
    if not hasattr(streams, "_schedule_flush"):
        return
    write, send = streams.write, streams._flush
    unflushed: dict[str, int] = {}

    def write_and_wait(self: Any, string: str) -> Any:
        written = write(self, string)
        unflushed[self.name] = unflushed.get(self.name, 0) + len(string)
        if unflushed[self.name] > ROOM:
            unflushed[self.name] = 0
            self.flush()
        return written

    def send_noted(self: Any) -> None:
        sender = threading.current_thread()
        if not isinstance(sender, _Sender):
            send(self)
            return
        sender.flushes = True
        try:
            send(self)
        finally:
            sender.flushes = False

    def flush(self: Any) -> None:
        sender = getattr(self.pub_thread, "sender", None)
        if sender is None or not sender.is_alive() or sender is threading.current_thread():
            self._flush()
            return
        # In this order: who empties the buffer has noted it before.
        if getattr(self, "_buffers", True) or sender.flushes or getattr(self, "echo", None):
            sender.do_and_wait(self._flush)

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
            self._io_loop.call_later(self.flush_interval, self.pub_thread.schedule, fired)

        self._io_loop.add_callback(later)

    streams.write, streams._flush = write_and_wait, send_noted
    streams.flush, streams._schedule_flush = flush, schedule_flush


def save_history_later(history: Any) -> None:
    """Let IPython's thread that writes down what was run (history.py) wait for a moment: whatever
    came until then is one transaction. By itself it makes one of each cell, which costs a fifth of
    what the cell does, and the next cell waits for the lock that is held meanwhile.
    """
    managers: Any = getattr(history, "HistoryManager", None)
    threads: Any = getattr(history, "HistorySavingThread", None)
    if not hasattr(managers, "writeout_cache") or not hasattr(threads, "stop"):
        return
    write, stop = managers.writeout_cache, threads.stop

    def stopping(thread: Any) -> threading.Event:
        event: threading.Event = thread.__dict__.setdefault("_stopping", threading.Event())
        return event

    def write_later(self: Any, *args: Any, **kwargs: Any) -> None:
        thread = threading.current_thread()
        if isinstance(thread, threads):
            stopping(thread).wait(HISTORY)
        write(self, *args, **kwargs)

    def stop_now(self: Any) -> None:
        stopping(self).set()
        stop(self)

    managers.writeout_cache, threads.stop = write_later, stop_now


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
