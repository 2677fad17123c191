"""A registry that lets in who has a password: Debian's `docker-registry`, on a port of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from system.running import free_port

USER, PASSWORD = "ann", "s3cret"
_HTPASSWD = f"{USER}:$2b$04$6A69WzIpXiMpJb5X57Dk4OqC.NqWKDMorHqP8BInbxjJC4NT5AzHW\n"
_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {place}/content}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: here, path: {place}/htpasswd}}}}
"""


@dataclass
class LocalRegistry:
    host: str

    def login(self, directory: Path, password: str = PASSWORD) -> None:
        """As `docker login` leaves it in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        said = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (directory / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": said}}}))


def docker_registry() -> str | None:
    """The program, if it is here."""
    search = f"{sys.prefix}/bin:{os.environ.get('PATH', os.defpath)}"
    return shutil.which("docker-registry", path=search)


@contextlib.contextmanager
def serve(place: Path) -> Iterator[LocalRegistry]:
    program, port = docker_registry(), free_port()
    assert program is not None
    place.mkdir(parents=True)
    (place / "htpasswd").write_text(_HTPASSWD)
    (place / "config.yml").write_text(_CONFIG.format(place=place, port=port))
    command = [program, "serve", str(place / "config.yml")]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **both) as it:  # type: ignore[call-overload]
        said = []
        for line in it.stdout:
            said.append(line)
            if "listening on" in line:
                break
        assert it.poll() is None, "".join(said)
        reading = threading.Thread(target=it.stdout.read)
        reading.start()
        try:
            yield LocalRegistry(f"127.0.0.1:{port}")
        finally:
            it.terminate()
            reading.join()
