"""Keys: one master key per installation, one random key per session, one subkey per purpose.

A session key lies in the store wrapped by the master key (byte layout: `_WRAPPED`); what is stored
of a session is sealed with AES-256-GCM under subkeys of its session key. Sealing binds `context`:
bytes that say what the sealed thing is, so that nothing can be put in the place of something else.
"""

from __future__ import annotations

import os
import secrets
import struct
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.blobs import Buffer
from checkpoint.errors import Damaged, UnknownFormat, WrongKey

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_OVERHEAD = NONCE_BYTES + 16

_VERSION = 1
_MAGIC = b"SKKY"
# magic, version, fingerprint of the master key, nonce + ciphertext + tag, BLAKE3 of all before
_WRAPPED = struct.Struct(f"<4sB8s{SEAL_OVERHEAD + KEY_BYTES}s8s")


def _derive(key: bytes, purpose: str) -> bytes:
    return blake3(key, derive_key_context=f"sessionkeeper 2026-11 {purpose}").digest()


class Sealer:
    """AES-256-GCM under one key with random nonces (NIST SP 800-38D: at most 2^32 seals a key)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, data: Buffer, context: bytes) -> tuple[bytes, bytes]:
        """Nonce, and ciphertext with tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, data, context)

    def open(self, sealed: Buffer, context: bytes, what: str) -> bytes:
        """The bytes in nonce + ciphertext + tag. Raises `Damaged`, naming `what`."""
        view = memoryview(sealed)
        try:
            return self._cipher.decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise Damaged(what, "its seal does not open") from None


class SessionKeys:
    """The subkeys of one session: `chunk_id_key` names chunks, `sealer` seals everything."""

    def __init__(self, session_key: bytes) -> None:
        """Raises `WrongKey` when `session_key` is not 32 bytes."""
        if len(session_key) != KEY_BYTES:
            raise WrongKey(f"A session key has {KEY_BYTES} bytes, not {len(session_key)}.")
        self.session_key = session_key
        self.chunk_id_key = _derive(session_key, "chunk id")
        self.pack_id_key = _derive(session_key, "pack id")
        self.sealer = Sealer(_derive(session_key, "seal"))

    @classmethod
    def generate(cls) -> SessionKeys:
        """Keys of a new session."""
        return cls(secrets.token_bytes(KEY_BYTES))


class MasterKey:
    """Wraps session keys. Whoever has it can read every session of the store."""

    def __init__(self, key: bytes) -> None:
        """Raises `WrongKey` when `key` is not 32 bytes."""
        if len(key) != KEY_BYTES:
            raise WrongKey(f"A master key has {KEY_BYTES} bytes, not {len(key)}.")
        self._sealer = Sealer(_derive(key, "master wrap"))
        self._fingerprint = _derive(key, "master fingerprint")[:8]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> MasterKey:
        """The key in `path` (64 hex digits), created there with mode 0600 if there is no such file.

        Of several processes that create it at once, all get the same key. Raises `WrongKey` when
        the file holds something else, `OSError` when it cannot be read or written.
        """
        path = Path(path)
        if not path.exists():
            _create_key_file(path)
        try:
            return cls(bytes.fromhex(path.read_text("ascii").strip()))
        except (ValueError, WrongKey):
            raise WrongKey(f"{path} does not hold a master key (64 hex digits).") from None

    def wrap(self, session_key: bytes, session_id: str) -> bytes:
        """The session key, sealed for this session alone."""
        nonce, ciphertext = self._sealer.seal(session_key, session_id.encode())
        body = _WRAPPED.pack(_MAGIC, _VERSION, self._fingerprint, nonce + ciphertext, b"")[:-8]
        return body + blake3(body).digest()[:8]

    def unwrap(self, wrapped: bytes, session_id: str) -> bytes:
        """Inverse of `wrap`. Raises `Damaged`, `UnknownFormat`, `WrongKey`."""
        what = f"The key of session {session_id!r}"
        if len(wrapped) > 4 and wrapped.startswith(_MAGIC) and wrapped[4] > _VERSION:
            raise UnknownFormat(what, wrapped[4], _VERSION)
        if len(wrapped) != _WRAPPED.size or blake3(wrapped[:-8]).digest()[:8] != wrapped[-8:]:
            raise Damaged(what, "its checksum differs")
        _, _, fingerprint, sealed, _ = _WRAPPED.unpack(wrapped)
        if fingerprint != self._fingerprint:
            raise WrongKey(f"{what} was wrapped with another master key.")
        return self._sealer.open(sealed, session_id.encode(), what)


def _create_key_file(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # another process may be first; then its key counts
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
