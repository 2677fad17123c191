"""From a repository to a session in its image: by the command line, and as Binder's clients do it.

The repositories are on a git server of the test; what is `https://github.com/` for clients is that.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from system.client import KernelClient
from system.fixtures import end
from system.running import DIRECT, System

from images import podman
from sessionkeeper.bench import own_image as python
from sessionkeeper.nodes import processes

pytestmark = [pytest.mark.container, pytest.mark.needs("podman", "repo2docker", "git")]

DOCKERFILE = f"""\
FROM {podman.BASE}
ENV PATH={python.ENV}/bin:/usr/bin:/bin HOME={python.HOME}
COPY . {python.HOME}/
RUN echo made by the build > {python.HOME}/made.txt
USER ann
WORKDIR {python.HOME}
"""
PAGE = "https://book.example.org"
WHO = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
SESSIONS = "/api/sessionkeeper/sessions"


def git(place: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", place, *WHO, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Binder:
    """A system that launches, and a repository that it can be asked to."""

    system: System
    served: Path
    work: Path

    def commit(self, **files: str) -> str:
        """Commit files, and have them on the server; the commit."""
        for name, text in files.items():
            path = self.work / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        git(self.work, "add", "--all")
        git(self.work, "commit", "--quiet", "--message", "change")
        git(self.work, "push", "--quiet", str(self.served / "ann" / "course"), "main")
        git(self.served / "ann" / "course", "update-server-info")
        return git(self.work, "rev-parse", "HEAD")

    def build(self, path: str) -> list[dict[str, Any]]:
        """What a Binder client hears: phases, until it has what it came for."""
        token = self.system.state.token("gateway")
        url = f"{self.system.url('gateway')}/build/{path}"
        url += f"{'&' if '?' in url else '?'}token={token}"
        request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
        heard = []
        request.add_header("Origin", PAGE)
        with DIRECT.open(request, timeout=120) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            for line in answer:
                if line.startswith(b"data:"):
                    heard.append(json.loads(line.partition(b":")[2]))
                    if heard[-1]["phase"] in ("ready", "failed"):
                        break
        return heard

    def sessions(self) -> set[str]:
        listed = self.system.get(SESSIONS, server="gateway")["sessions"]
        return {one["name"] for one in listed} - {"default"}

    async def delete(self, name: str) -> None:
        await self.system.command("session", "delete", name, "--yes")


@pytest.fixture(scope="module")
def binder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Binder]:
    place = tmp_path_factory.mktemp("binder")
    served, work = place / "served", place / "course"
    bare = served / "ann" / "course"
    for one, flags in ((bare, ["--bare"]), (work, [])):
        one.mkdir(parents=True)
        git(one, "init", "--quiet", "--initial-branch=main", *flags)
    handler = functools.partial(_Quiet, directory=str(served))
    with ExitStack() as undo:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        undo.callback(server.shutdown)
        (place / "gitconfig").write_text(
            f'[url "http://127.0.0.1:{server.server_port}/"]\n\tinsteadOf = https://github.com/\n'
        )
        known = podman.environ(place / "podman")
        podman.import_base(known)
        undo.callback(podman.unmount, place / "podman")
        system = System(
            place / "state",
            "--no-ui",
            environ={**known, "GIT_CONFIG_GLOBAL": str(place / "gitconfig"), "AWS_SECRET": "x"},
        )
        undo.callback(end, system)
        binder = Binder(system.start(), served, work)
        binder.commit(binder__Dockerfile=DOCKERFILE)
        yield binder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def ask(ready: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """A request to the server that a Binder says is ready, as its clients send it."""
    url = f"{ready['url']}{path}?token={ready['token']}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Origin": PAGE}, method=method)
    with DIRECT.open(request, timeout=60) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        return json.loads(answer.read())


def phases(heard: list[dict[str, Any]]) -> list[str]:
    """Each phase once, in order."""
    return list(dict.fromkeys(one["phase"] for one in heard))


async def test_binder_client_gets_a_session_in_the_repositorys_image(binder: Binder):
    commit = binder.commit(binder__Dockerfile=DOCKERFILE, index_ipynb="{}")
    heard = await asyncio.to_thread(binder.build, "gh/ann/course/main")
    assert phases(heard) == [
        *("waiting", "fetching", "building", "pushing", "built", "launching", "ready")
    ], heard
    log = "".join(one["message"] for one in heard)
    assert "made by the build" in log
    ready = heard[-1]
    assert ready["repo_url"] == "https://github.com/ann/course"
    assert ready["binder_ref_url"] == f"https://github.com/ann/course/tree/{commit}"
    assert ready["binder_persistent_request"] == f"v2/gh/ann/course/{commit}"
    assert f":{commit}@sha256:" in ready["image"]

    # What a page with live code does then (thebe): look whether the server is there, start a
    # notebook session, run a cell.
    async with asyncio.timeout(60):
        assert (await asyncio.to_thread(ask, ready, "GET", "api/status"))["kernels"] == 0
        wish = {"name": "thebe.ipynb", "path": "/thebe.ipynb", "type": "notebook"}
        wish |= {"kernel": {"name": "python3"}}  # type: ignore[dict-item]
        kernel = (await asyncio.to_thread(ask, ready, "POST", "api/sessions", wish))["kernel"]
        where = ready["url"].rstrip("/").replace("http", "ws", 1)
        client = await KernelClient(kernel["id"], where, ready["token"]).open()
        assert await client.ask("import os; open('made.txt').read(), os.getuid()") == (
            f"('made by the build\\n', {python.USER})"
        )
        await client.close()

    # Known commit, known image: nothing is built.
    again = await asyncio.to_thread(binder.build, f"gh/ann/course/{commit}")
    assert phases(again) == ["built", "launching", "ready"]
    assert again[-1]["image"] == ready["image"]
    assert again[-1]["token"] != ready["token"]
    for one in (ready, again[-1]):
        await binder.delete(one["session"])


async def test_failing_build_shows_its_log_and_leaves_nothing_running(binder: Binder):
    binder.commit(binder__Dockerfile=f"{DOCKERFILE}RUN echo in vain $AWS_SECRET; exit 3\n")
    before = binder.sessions()
    code, out, said = await binder.system.attempt(
        "launch", "https://github.com/ann/course", "--ref", "main"
    )
    assert code == 15
    assert out == ""
    assert "in vain" in said
    assert "exit status 3" in said
    assert "in vain x" not in said, "what the gateway knows of its store is no build's business"
    assert binder.sessions() == before
    ours = processes.parts(binder.system.state.id)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in ours]
    assert not [one for one in commands if b"repo2docker" in one or b"podman" in one]


async def test_directory_that_did_not_change_is_not_built_again(binder: Binder, tmp_path: Path):
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    words = ("launch", str(tmp_path), "--build-only")
    first = await binder.system.command(*words)
    again = await binder.system.command(*words, "--json")
    (event,) = [json.loads(line) for line in again.splitlines()]
    assert event["phase"] == "ready"
    assert event["imageName"] == first.strip()
    assert binder.sessions() == set()


async def test_what_cannot_be_launched_is_said_in_words(binder: Binder, tmp_path: Path):
    code, _, said = await binder.system.attempt("launch", str(tmp_path / "nowhere"))
    assert (code, "neither a directory nor a URL" in said) == (14, True)
    code, _, said = await binder.system.attempt("launch", str(tmp_path), "--ref", "main")
    assert code == 14, said
    (failed,) = await asyncio.to_thread(binder.build, "gh/ann/course/no-such-branch")
    assert failed["phase"] == "failed"
    assert "no-such-branch" in failed["message"]
    (failed,) = await asyncio.to_thread(binder.build, "svn/x/y")
    assert "no provider 'svn'" in failed["message"]


async def test_who_has_no_token_launches_nothing_and_reads_the_pages(binder: Binder):
    def get(path: str) -> tuple[int, bytes]:
        return binder.system.request("GET", path, server="gateway", token=None)

    for path in ("/build/gh/ann/course/main", "/build/path/%2F"):
        assert get(path)[0] == 400, "it is no event stream that is asked for"
        request = urllib.request.Request(
            binder.system.url("gateway") + path, headers={"Accept": "text/event-stream"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            DIRECT.open(request, timeout=30)
        assert refused.value.code == 401
    for path in ("/", "/v2/gh/ann/course/main", "/badge.svg", "/badge_logo.svg"):
        assert get(path)[0] == 200
    assert b"repo2docker" in get("/versions")[1]
    async with asyncio.timeout(60):  # the first node comes after the gateway
        while not (health := json.loads(get("/health")[1]))["ok"]:
            await asyncio.sleep(0.05)
    assert [one["ok"] for one in health["checks"]] == [True, True]
    assert get("/v2/svn/x")[0] == 404
