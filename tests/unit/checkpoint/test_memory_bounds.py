"""A checkpoint may be larger than the memory of the machine that writes it, or reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MOST = 256  # MiB, the interpreter and the libraries included

PROGRAM = """
import os, sys
from checkpoint.blobs import LocalDirectory
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

PIECE = 256 << 10
COUNT = (2 << 30) // PIECE
noise = os.urandom(PIECE - 8)
store, keys = LocalDirectory(sys.argv[1]), SessionKeys(b"k" * 32)
with Writer(store, keys) as writer:
    names = [writer.add(number.to_bytes(8, "little") + noise) for number in range(COUNT)]
    packs = writer.finish()
with Reader(store, keys, packs) as reader:
    for number, data in enumerate(reader.read(names[: COUNT // 4])):
        assert data[:8] == number.to_bytes(8, "little") and data[8:] == noise
    found = []
    reader.each(names, lambda name, data: found.append(len(data)))
    assert sum(found) == COUNT * PIECE
status = open("/proc/self/status").read()
print(int(status.partition("VmHWM:")[2].split()[0]) >> 10)
"""


def test_two_gigabytes_are_written_and_read_with_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= MOST
