"""What is to be launched: a repository at a commit, or a directory as it is.

Sources: BinderHub's `repoproviders.py` (specs of the providers), git-ls-remote(1).
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from blake3 import blake3

from sessionkeeper.launch.errors import SourceUnknown

PROVIDERS = {"gh": "GitHub", "gl": "GitLab", "git": "Git", "gist": "Gist", "path": "a directory"}
LOCAL = "path"
"""The provider of directories of this machine: for its operator alone."""

_SHA = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SSH = re.compile(r"[\w.-]+@[\w.-]+:[^\s]+")
LONGEST_SLUG = 40
LS_REMOTE_SECONDS = 30.0
REMOTE = ("https", "http", "git", "ssh")


@dataclass(frozen=True)
class Source:
    """``url`` is what git, or repo2docker, is given; ``ref`` what was asked for of it, and
    ``commit`` which one that is, empty until :func:`resolve`. A directory as it is has no ``ref``,
    and for a commit the hash of what is in it.
    """

    provider: str
    spec: str
    url: str
    ref: str = "HEAD"
    commit: str = ""

    @property
    def is_directory(self) -> bool:
        return not self.ref

    @property
    def slug(self) -> str:
        """What of its address is fit for the name of an image or of a session: the repository's
        name, and whose it is.
        """
        path = self.url.rpartition(":")[2] if "://" not in self.url else urlsplit(self.url).path
        parts = path.strip("/").removesuffix(".git").split("/")
        name = "-".join(parts[-1:] if self.provider == LOCAL else parts[-2:])
        words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        return words[:LONGEST_SLUG].strip("-") or "repository"

    @property
    def image(self) -> str:
        """The name of the image of this commit of it. Needs ``commit``."""
        tell_apart = blake3(self.url.encode()).hexdigest(6)
        return f"r2d-{self.slug}-{tell_apart}:{self.commit}"

    @property
    def ref_url(self) -> str:
        """Where to look at this commit."""
        below = {"gh": "/tree/", "gl": "/tree/", "gist": "/"}.get(self.provider)
        return f"{self.url}{below}{self.commit}" if below else self.url

    @property
    def request(self) -> str:
        """What a link to it says after the address of a Binder."""
        return f"v2/{self.provider}/{self.spec}"

    @property
    def persistent_request(self) -> str:
        """The same, which will always mean this commit."""
        if self.is_directory:
            return self.request
        head = self.spec.removesuffix(self.ref).rstrip("/")
        return f"v2/{self.provider}/{head}/{self.commit}"


def of_provider(provider: str, spec: str) -> Source:
    """Read a spec as it is in a URL, still quoted. Raises :class:`SourceUnknown`."""
    spec = spec.rstrip("/")
    if provider == LOCAL:
        quoted, _, ref = spec.partition("/")
        path = os.path.abspath(unquote(quoted))
        if not ref:
            return Source(LOCAL, spec, path, "")
        return Source(LOCAL, spec, f"file://{path}", _ref(unquote(ref), spec))
    if provider == "git":
        address, _, ref = spec.partition("/")
        return Source(provider, spec, _remote(unquote(address)), _ref(unquote(ref), spec))
    if provider == "gl":
        name, _, ref = spec.partition("/")
        parts = unquote(name).removesuffix(".git").split("/")
        return Source(provider, spec, _at("gitlab.com", parts, 2, spec), _ref(unquote(ref), spec))
    if provider == "gist":
        parts = spec.split("/", 2)
        url = _at("gist.github.com", parts[:2], 2, spec)
        ref = unquote(parts[2]) if len(parts) > 2 else "HEAD"
        return Source(provider, spec, url, "HEAD" if ref in ("master", "main") else ref)
    if provider == "gh":
        parts = spec.split("/", 2)
        names = [*parts[:1], *(part.removesuffix(".git") for part in parts[1:2])]
        url = _at("github.com", names, 2, spec)
        return Source(provider, spec, url, _ref(unquote(parts[2]) if len(parts) > 2 else "", spec))
    known = ", ".join(PROVIDERS)
    raise SourceUnknown(f"there is no provider {provider!r}", hint=f"there is {known}")


def of_argument(text: str, ref: str | None, here: Path) -> Source:
    """Read what was typed: a path or a URL. Raises :class:`SourceUnknown`."""
    path = Path(here, Path(text).expanduser())
    is_url = "://" in text or _SSH.fullmatch(text) is not None
    if not is_url and path.is_dir():
        spec = quote(str(path.resolve()), safe="")
        return of_provider(LOCAL, spec if ref is None else f"{spec}/{quote(ref)}")
    if not is_url:
        raise SourceUnknown(f"{text} is neither a directory nor a URL")
    said = urlsplit(text)
    parts = said.path.strip("/").removesuffix(".git").split("/")
    if said.hostname == "github.com" and len(parts) == 2:
        return of_provider("gh", f"{'/'.join(parts)}/{ref or 'HEAD'}")
    spec = f"{quote(text, safe='')}/{quote(ref or 'HEAD', safe='/')}"
    return Source("git", spec, text, ref or "HEAD")


async def resolve(source: Source) -> Source:
    """Find out which commit it is now. Raises :class:`SourceUnknown`."""
    if source.is_directory:
        return replace(source, commit=await asyncio.to_thread(hash_of, Path(source.url)))
    if _SHA.fullmatch(source.ref):
        return replace(source, commit=source.ref)
    listed = await _ls_remote(source)
    commit = chosen(listed, source.ref)
    if commit is None:
        raise SourceUnknown(f"{source.url} has no branch or tag {source.ref!r}")
    return replace(source, commit=commit)


def chosen(listed: str, ref: str) -> str | None:
    """Return the commit that ``ref`` means by what ``git ls-remote`` says: a branch before a tag,
    and of a tag the commit. Pure.
    """
    found = {}
    for line in listed.splitlines():
        commit, _, name = line.partition("\t")
        found[name.strip()] = commit.strip()
    names = (ref, f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/{ref}")
    return next((found[name] for name in names if name in found), None)


def hash_of(directory: Path) -> str:
    """Return a hash of all files below ``directory`` but git's own: 40 hexadecimal digits. Raises
    :class:`SourceUnknown`.
    """
    if not directory.is_dir():
        raise SourceUnknown(f"there is no directory {directory}")
    found = blake3()
    for above, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name != ".git")
        links = [one for one in directories if os.path.islink(f"{above}/{one}")]
        for path in (Path(above, name) for name in sorted((*names, *links))):
            mode = path.lstat().st_mode
            told = b"%s\0%o\0" % (os.fsencode(path.relative_to(directory)), mode & 0o111)
            found.update(len(told).to_bytes(8) + told)
            if stat.S_ISLNK(mode):
                found.update(os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(mode):
                found.update(path.stat().st_size.to_bytes(8))
                found.update_mmap(path)
    return found.hexdigest(20)


async def _ls_remote(source: Source) -> str:
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:http:git:ssh"}
    if source.url.startswith("file://"):
        environ["GIT_ALLOW_PROTOCOL"] = "file"
    try:
        process = await asyncio.create_subprocess_exec(
            "git", "ls-remote", "--", source.url, source.ref, f"{source.ref}^{{}}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )  # fmt: skip
    except FileNotFoundError:
        raise SourceUnknown("git is not installed here", hint="install git") from None
    try:
        out, err = await asyncio.wait_for(process.communicate(), LS_REMOTE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SourceUnknown(f"{source.url} did not answer") from None
    if process.returncode:
        words = err.decode(errors="replace").strip().splitlines()
        raise SourceUnknown(f"{source.url} cannot be read: {words[-1] if words else 'git failed'}")
    return out.decode(errors="replace")


def _remote(url: str) -> str:
    if _SSH.fullmatch(url) or urlsplit(url).scheme in REMOTE:
        return url
    raise SourceUnknown(f"{url!r} is no address of a git repository: {', '.join(REMOTE)}://…")


def _at(host: str, parts: list[str], least: int, spec: str) -> str:
    if len(parts) < least or not all(_PART.fullmatch(part) for part in parts):
        raise SourceUnknown(
            f"{spec!r} names no repository", hint='it is "user/repository/branch, tag or commit"'
        )
    return f"https://{host}/{'/'.join(parts)}"


def _ref(ref: str, spec: str) -> str:
    if not ref:
        raise SourceUnknown(f"{spec!r} names no commit. Did you mean {spec + '/HEAD'!r}?")
    if ref.startswith("-") or not ref.isprintable() or any(c in ref for c in " ~^:?*[\\"):
        raise SourceUnknown(f"{ref!r} is no branch, tag or commit")
    return ref
