"""Who says something in a kernel waits until it is sent, and for nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import zmq

from gateway.kernel_boot import HISTORY

# In a process of its own: what it changes of ipykernel stays changed.
KERNEL = r"""
import json, sys
import ipykernel.iostream as iostream
import zmq
from gateway import kernel_boot
from jupyter_client.session import Session

prefix = "ipc://" + sys.argv[1] + "/k"
kernel_boot.never_drop(prefix)
context = zmq.Context()
publisher, listener = context.socket(zmq.PUB), context.socket(zmq.SUB)
publisher.bind(prefix + "-2")
listener.subscribe(b"")
listener.rcvhwm = 0
listener.connect(prefix + "-2")
thread = iostream.IOPubThread(publisher)
woken = []
schedule = thread.schedule
thread.schedule = lambda action: (woken.append(action), schedule(action))
thread.start()
out = iostream.OutStream(Session(key=b"k"), thread, "stdout", watchfd=False, isatty=False)

def heard(milliseconds):
    texts = []
    while listener.poll(milliseconds):
        texts.append(json.loads(listener.recv_multipart()[-1]).get("text"))
    return "".join(texts)

while "first" not in heard(100):  # it is connected
    out.write("first")
    out.flush()
out.flush()
before = len(woken)
for _ in range(100):
    out.flush()
idle = len(woken) - before
numbers = range(500)
for number in numbers:
    out.write(f"{number} ")
    out.flush()
    # As an idle is said: it must come after what was printed and flushed before.
    thread.send_multipart([b"idle", json.dumps({"text": f"idle{number} "}).encode()])
said = heard(1000)
thread.stop()
print(json.dumps({"idle": idle, "said": said}))
"""


def test_a_flush_wakes_nobody_without_need_and_keeps_the_order(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KERNEL, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["idle"] == 0
    expected = [word for n in range(500) for word in (str(n), f"idle{n}")]
    assert found["said"].split() == expected


SHOWS = r"""
import sys
import ipykernel.iostream as iostream
import zmq
from gateway import kernel_boot

prefix = "ipc://" + sys.argv[1] + "/k"
kernel_boot.never_drop(prefix)
publisher = zmq.Context().socket(zmq.XPUB)
publisher.bind(prefix + "-2")
publisher.recv()  # who listens is there
thread = iostream.IOPubThread(publisher)
thread.start()
for word in (b"busy", b"idle"):
    thread.send_multipart([b"kernel.1.status", word])
thread.send_multipart([b"display", b"shown"])
print(sum(range(10**9)))  # a computation in C, in which no other thread gets its turn
"""


def test_what_is_shown_before_a_long_computation_is_shown_before_it(tmp_path: Path) -> None:
    listener = zmq.Context().socket(zmq.SUB)
    listener.subscribe(b"")
    listener.connect(f"ipc://{tmp_path}/k-2")
    with subprocess.Popen(
        [sys.executable, "-c", SHOWS, str(tmp_path)], stdout=subprocess.PIPE
    ) as kernel:
        said: list[bytes] = []
        while said[-1:] != [b"shown"] and listener.poll(30_000):
            said.append(listener.recv_multipart()[-1])
        computing = kernel.poll() is None
        kernel.kill()
        assert kernel.stdout is not None
        assert kernel.stdout.read() == b""
    assert said == [b"busy", b"idle", b"shown"]
    assert computing
    listener.close(0)


REMEMBERS = r"""
import sys
import time
from IPython.core import history
from IPython.core.interactiveshell import InteractiveShell
from gateway import kernel_boot

kernel_boot.save_history_later(history)
file = sys.argv[1] + "/history.sqlite"


def transactions():
    with open(file, "rb") as database:  # sqlite.org/fileformat.html#file_change_counter
        return int.from_bytes(database.read(28)[24:], "big")


shell = InteractiveShell()
manager = history.HistoryManager(shell=shell, hist_file=file)
before, began = transactions(), time.monotonic()
for number in range(1, 51):
    manager.store_inputs(number, f"cell {number}")
    time.sleep(0.004)  # what a small cell takes
thread = manager.save_thread
thread.stop()
manager.writeout_cache()
with manager.db:
    kept = [line for _, _, line in manager.get_tail(100, include_latest=True)]
took = time.monotonic() - began
print(transactions() - before, took, kept == [f"cell {n}" for n in range(1, 51)])
"""


def test_cells_that_follow_each_other_are_written_into_the_history_together(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", REMEMBERS, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    written, took, kept = ran.stdout.split()
    assert kept == "True"
    assert int(written) <= float(took) / HISTORY + 2
