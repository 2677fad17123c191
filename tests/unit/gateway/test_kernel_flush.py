"""Who flushes in a kernel waits for what is to be sent, and for nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
