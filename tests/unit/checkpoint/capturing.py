"""`criu dump --stream` as far as whoever captures it sees it: the images of a directory, sent."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from checkpoint.criu import Capture, Dump, Known
from checkpoint.criu.capture import SOCKET


def send(images: Path, into: Path) -> None:
    """Send all images, one after the other as CRIU does."""
    with socket.socket(socket.AF_UNIX) as connection:
        here = os.open(into, os.O_RDONLY)
        connection.connect(f"/proc/self/fd/{here}/{SOCKET}")
        os.close(here)
        for path in sorted(images.iterdir()):
            name = path.name.encode()
            request = b"\x0a" + bytes([len(name)]) + name
            connection.sendall(struct.pack("<I", len(request)) + request)
            reading, writing = os.pipe()
            descriptor = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", reading))
            connection.sendmsg([b"\0"], [descriptor])
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(path.read_bytes())


def capture(images: Path, into: Path, known: Known | None = None, room: Path | None = None) -> Dump:
    """What is captured of the images in a directory, in the new one `into`."""
    into.mkdir()
    with Capture(into, known, room) as one:
        send(images, into)
        return one.dump()
