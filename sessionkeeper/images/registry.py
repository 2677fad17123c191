"""Reading images from a registry, or from the gateway, which serves those it keeps the same way.

Source: OCI distribution specification 1.1 ("Pull"); token authentication as in
distribution/docs/spec/auth/token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import urllib3

from sessionkeeper.images.errors import ImageDamaged, ImageUnavailable, ImageUnknown
from sessionkeeper.images.manifest import INDEXES, LARGEST_DOCUMENT, MANIFESTS, chosen
from sessionkeeper.images.reference import Reference, is_digest, parse
from sessionkeeper.images.store import ImageStore

PIECE = 1 << 20
_ACCEPT = ", ".join((*MANIFESTS, *INDEXES))
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_LOCAL = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


class Registry:
    """Images below ``url``, the address before ``/v2/``. Thread-safe; all calls block.

    All raise ``ImageUnknown`` for what is not there, ``ImageUnavailable`` when it does not answer
    or lets nobody in, ``ImageDamaged`` for what is not what its digest says.
    """

    def __init__(self, url: str, authorization: str = "") -> None:
        self.url = url.rstrip("/")
        self._authorization = authorization
        self._pool = urllib3.PoolManager(
            maxsize=4,
            retries=urllib3.Retry(connect=3, read=2, redirect=5, status=0, backoff_factor=0.2),
            timeout=urllib3.Timeout(connect=10, read=60),
        )
        self._tokens: dict[str, str] = {}

    @classmethod
    def at(cls, host: str, docker_config: Path | None = None) -> Registry:
        """The registry of that name, with the credentials that Docker's or Podman's file has for
        it. On this machine itself it may be without TLS.
        """
        scheme = "http" if is_local(host) else "https"
        host = "registry-1.docker.io" if host == "docker.io" else host
        return cls(f"{scheme}://{host}", _credentials(host, docker_config))

    def resolve(self, image: Reference) -> str:
        """Return the digest of the manifest that the image has now."""
        return self.manifest(image)[0]

    def manifest(self, image: Reference) -> tuple[str, bytes]:
        """Return the manifest of the image for this architecture, after its digest."""
        path = f"{image.name}/manifests/{image.wanted}"
        data = self._document(image, path)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if image.digest and digest != image.digest:
            raise ImageDamaged(f"the manifest of {image} is another one")
        inner = chosen(data)
        return (digest, data) if inner is None else self.manifest(image.pinned(inner))

    def document(self, image: Reference, digest: str) -> bytes:
        """Return a small blob."""
        data = self._document(image, f"{image.name}/blobs/{digest}")
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ImageDamaged(f"{digest} of {image} is something else")
        return data

    def blob(self, image: Reference, digest: str) -> Iterator[bytes]:
        """Return a blob in pieces; raises ``ImageDamaged`` after the last one if it is another."""
        with self._get(image, f"{image.name}/blobs/{digest}") as answer:
            found = hashlib.sha256()
            try:
                while piece := answer.read(PIECE, decode_content=False):
                    found.update(piece)
                    yield piece
            except urllib3.exceptions.HTTPError as error:
                raise ImageUnavailable(f"{image}: the connection broke off: {error}") from None
        if f"sha256:{found.hexdigest()}" != digest:
            raise ImageDamaged(f"{digest} of {image} is something else")

    def _document(self, image: Reference, path: str) -> bytes:
        with self._get(image, path) as answer:
            data = answer.read(LARGEST_DOCUMENT + 1)
        if len(data) > LARGEST_DOCUMENT:
            raise ImageDamaged(f"{path} is larger than any registry takes")
        return data

    def _get(self, image: Reference, path: str) -> urllib3.BaseHTTPResponse:
        answer = self._request(path, self._tokens.get(image.name, self._authorization))
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status == 401 and challenge.lower().startswith("bearer realm="):
            answer.drain_conn()
            self._tokens[image.name] = self._token(challenge)
            answer = self._request(path, self._tokens[image.name])
        if answer.status == 200:
            return answer
        answer.drain_conn()
        if answer.status in (404, 401, 403) and image.host:
            # Registries say 401 for what they do not have as well.
            raise ImageUnknown(f"{image.host} has no image {image}, or shows it to nobody here")
        if answer.status == 404:
            raise ImageUnknown(f"the gateway keeps no image {image}")
        raise ImageUnavailable(f"{self.url} answered {answer.status} when asked for {image}")

    def _request(self, path: str, authorization: str) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": _ACCEPT}
        if authorization:
            headers["Authorization"] = authorization
        try:
            return self._pool.request(
                "GET", f"{self.url}/v2/{path}", headers=headers, preload_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise ImageUnavailable(f"{self.url} does not answer: {error}") from None

    def _token(self, challenge: str) -> str:
        said = dict(_CHALLENGE.findall(challenge))
        query = urlencode({name: said[name] for name in ("service", "scope") if name in said})
        headers = {"Authorization": self._authorization} if self._authorization else {}
        try:
            answer = self._pool.request("GET", f"{said['realm']}?{query}", headers=headers)
            found = json.loads(answer.data)
            return f"Bearer {found.get('token') or found['access_token']}"
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, AttributeError) as error:
            raise ImageUnavailable(f"{self.url} gave no token: {error!r}") from None


def pinned(image: str, kept: ImageStore | None) -> str:
    """Return the reference with the digest that it has now, in ``kept`` or in its registry: what is
    called so later is another session's. Raises ``ImageError``.
    """
    wanted = parse(image)
    if not wanted.host:
        if kept is None:
            raise ImageUnknown(f"this gateway keeps no images, so not {image} either")
        kept.touch(wanted)
        return str(wanted.pinned(kept.resolve(wanted)))
    return str(wanted.pinned(Registry.at(wanted.host).resolve(wanted)))


def is_local(host: str) -> bool:
    """Whether a registry is on this machine itself, and so may be without TLS."""
    return _LOCAL.fullmatch(host) is not None


def logged_in(host: str) -> Path | None:
    """Return the file that has credentials for a registry: what `docker login` or `podman login`
    has left; None: nobody did.
    """
    return next((file for file in _files() if _credentials(host, file)), None)


def _files() -> list[Path]:
    """Source: containers-auth.json(5); `docker login`."""
    given, docker = os.environ.get("REGISTRY_AUTH_FILE"), os.environ.get("DOCKER_CONFIG")
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    return [
        *([Path(given)] if given else []),
        Path(docker or Path.home() / ".docker") / "config.json",
        Path(run) / ("containers/auth.json" if "XDG_RUNTIME_DIR" in os.environ else "auth.json"),
    ]


def _credentials(host: str, file: Path | None) -> str:
    if file is None:
        return next(filter(None, (_credentials(host, one) for one in _files())), "")
    try:
        known = json.loads(file.read_text())["auths"]
        said = known.get(host) or known.get(f"https://{host}") or {}
        return f"Basic {said['auth']}" if base64.b64decode(said["auth"]) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def of_path(path: str) -> tuple[str, str, str] | None:
    """Return name, ``manifests`` or ``blobs``, and what is wanted of it, of a path after ``/v2/``;
    None for any other path.
    """
    found = re.fullmatch(r"(.+)/(manifests|blobs)/([^/]+)", path)
    if found is None or (found[2] == "blobs" and not is_digest(found[3])):
        return None
    return found[1], found[2], found[3]
