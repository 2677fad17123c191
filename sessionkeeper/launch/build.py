"""Building a repository: repo2docker as a process of its own, then its image into the store.

A build is somebody else's program with root's rights over this machine's containers; as root it
runs in a process namespace of its own, so that nothing of it outlives it, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from sessionkeeper.images.errors import ImageError, ImageUnknown
from sessionkeeper.images.reference import Reference, parse
from sessionkeeper.images.registry import is_local, logged_in, pinned
from sessionkeeper.images.store import ImageStore
from sessionkeeper.launch.errors import BuilderMissing, BuildFailed
from sessionkeeper.launch.events import Event, Phase, logged
from sessionkeeper.launch.sources import Source
from sessionkeeper.nodes.processes import PART

ENGINE = "sessionkeeper"
"""Our plugin's name among repo2docker's engines: see `sessionkeeper.launch.engine`."""

USER = ("--user-id", "1000", "--user-name", "jovyan")
"""Who owns the files in the image, as with Binder."""

LONGEST_LINE = 1 << 20
_CONFIGURATION = """\
from repo2docker.contentproviders import Git, Local
# The others ask services in the network what an address could be.
c.Repo2Docker.content_providers = [Local, Git]
"""
_NOT_FOR_BUILDS = ("AWS_", "KG_", "SESSIONKEEPER_", "JUPYTER")
_ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")

Say = Callable[[Event], None]


class Builder:
    """Builds into ``images``, or, with a ``registry`` (what comes before an image's name, such as
    ``registry.example.org/binder/``), into that one.
    """

    def __init__(self, images: ImageStore, registry: str = "") -> None:
        self._images = images
        self._registry = registry

    def name(self, source: Source) -> Reference:
        """Return what the image of a source whose commit is known is called."""
        return parse(f"{self._registry}{source.image}")

    def known(self, source: Source) -> str | None:
        """Return the image of a source whose commit is known, by its digest; None: it must be
        built. Blocks. Raises ``ImageUnavailable`` when the registry does not answer.
        """
        image = self.name(source)
        try:
            if not image.host and not self._images.has(image):
                return None
            return pinned(str(image), self._images)
        except ImageUnknown:
            return None

    async def build(self, source: Source, say: Say) -> str:
        """Build a source whose commit is known; the image's name with its digest. Ends with nothing
        running, also when it is cancelled.

        Raises :class:`BuilderMissing`, :class:`BuildFailed`, and ``ImageError``.
        """
        program = await asyncio.to_thread(_program)
        phase: Phase = "fetching"
        with tempfile.TemporaryDirectory(prefix="build-") as place:
            configuration = Path(place) / "repo2docker_config.py"
            configuration.write_text(_CONFIGURATION)

            def heard(line: str) -> None:
                nonlocal phase
                event = logged(line, phase)
                phase = event.phase
                say(event)

            code = await self._run(_repo2docker(source, configuration), heard, place)
        if code:
            raise BuildFailed(f"{source.url} could not be built: repo2docker ended with {code}")
        image = self.name(source)
        if image.host:
            return await self._push(program, source.image, image, say)
        say(Event("pushing", f"Keeping the image {image}\n"))
        with self._images.incoming() as layout:
            if program == "podman":
                put = ("--compression-format", "zstd", source.image, f"oci:{layout}:{image.tag}")
                command = [program, "push", "--quiet", *put]
                code = await self._run(command, lambda line: say(Event("pushing", line)), layout)
            else:
                code = await self._save(source.image, layout, say)
            if code:
                raise BuildFailed(f"the image could not be kept: {program} ended with {code}")
            try:
                digest = await asyncio.to_thread(self._images.name, layout, image)
            except ImageError as error:
                raise BuildFailed(f"the image could not be kept: {error}") from None
        return str(image.pinned(digest))

    async def _push(self, program: str, built: str, image: Reference, say: Say) -> str:
        say(Event("pushing", f"Pushing the image {image}\n"))
        words = ["push", built, f"docker://{image}"]
        file = await asyncio.to_thread(logged_in, image.host)
        if program == "podman":
            words += ["--authfile", str(file)] if file else []
            words += ["--tls-verify=false"] if is_local(image.host) else []
        else:
            await self._run([program, "tag", built, str(image)], lambda _: None, "/")
            words = ["push", str(image)]
        code = await self._run([program, *words], lambda line: say(Event("pushing", line)), "/")
        if code:
            hint = "the log above says why"
            hint += "" if file else f"; nobody has logged in: `{program} login {image.host}`"
            raise BuildFailed(f"{image} was not pushed: {program} ended with {code}", hint=hint)
        return await asyncio.to_thread(pinned, str(image), None)

    async def _save(self, image: str, layout: Path, say: Say) -> int:
        archive = layout / "saved.tar"
        command = ["docker", "save", "--output", str(archive), image]
        code = await self._run(command, lambda line: say(Event("pushing", line)), layout)
        if code == 0:
            await asyncio.to_thread(_take_layout, archive, layout)
        return code

    async def _run(self, command: list[str], heard: Callable[[str], None], place: object) -> int:
        """Run it to its end; its exit code."""
        alone = os.geteuid() == 0 and shutil.which("unshare") is not None
        process = await asyncio.create_subprocess_exec(
            *(_ALONE if alone else ()),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LONGEST_LINE,
            cwd=str(place),
            env=_environ(os.environ),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            while True:
                try:
                    line = await process.stdout.readline()
                except ValueError:
                    heard("(a line that is too long is left out)\n")
                    continue
                if not line:
                    break
                heard(line.decode(errors="replace"))
            return await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def _environ(ours: Mapping[str, str]) -> dict[str, str]:
    """Without what is secret. Whose process it is stays: `up` ends it with the gateway."""
    given = {
        name: value
        for name, value in ours.items()
        if name == PART or not name.startswith(_NOT_FOR_BUILDS)
    }
    return {**given, "PYTHONUNBUFFERED": "1", "GIT_TERMINAL_PROMPT": "0"}


def _repo2docker(source: Source, configuration: Path) -> list[str]:
    command = [sys.executable, "-m", "repo2docker", "--config", str(configuration)]
    command += ["--engine", ENGINE, "--json-logs", "--no-run", "--image-name", source.image, *USER]
    if not source.is_directory:
        command += ["--ref", source.commit]
    return [*command, source.url]


def can_build() -> bool:
    """Return whether there is what builds need."""
    with suppress(BuilderMissing):
        return bool(_program())
    return False


def _program() -> str:
    if find_spec("repo2docker") is None:
        raise BuilderMissing("repo2docker is not installed")
    from sessionkeeper.launch.engine import program

    found = program()
    if found is None:
        raise BuilderMissing("neither podman nor docker works here")
    return found


def _take_layout(archive: Path, layout: Path) -> None:
    """Move what `docker save` wrote, an OCI layout since Docker 25, to where images come in."""
    with tempfile.TemporaryDirectory(dir=layout) as place, tarfile.open(archive) as saved:
        saved.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4
        saved.extractall(place)  # noqa: S202
        archive.unlink()
        for blob in Path(place).glob("blobs/sha256/*"):
            blob.replace(layout / "blobs" / "sha256" / blob.name)
        for index in Path(place).glob("index.json"):
            index.replace(layout / "index.json")
