"""Keys: one master key per installation, one random key per session, one subkey per purpose.

A session key lies in the store wrapped by the master key (see `docs/checkpoint-format.md`); what is
stored of a session is sealed with AES-256-GCM under subkeys of its session key. Sealing binds
`context`: bytes that say what the sealed thing is, so that nothing can be put in the place of
something else.

The master key is a `KeyWrapper`: a key from a file or from the environment (`MasterKey`), or a key
management service that never gives its key away. While it is being replaced, several are accepted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.blobs import Buffer
from checkpoint.errors import Damaged, KeysBeingReplaced, UnknownFormat, WrongKey

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_OVERHEAD = NONCE_BYTES + 16

ENVIRONMENT = "SESSIONKEEPER_MASTER_KEY_HEX"

_VERSION = 2
_MAGIC = b"SKKY"
_CHECKSUM = 8
_ID_BYTES = 8
_HEAD = struct.Struct("<4sB8s")  # magic, version, id of the master key
_TEXT = struct.Struct("<HH")  # version 2: lengths of the pool's name and of what was wrapped


def _derive(key: bytes, purpose: str) -> bytes:
    return blake3(key, derive_key_context=f"sessionkeeper 2026-11 {purpose}").digest()


class Sealer:
    """AES-256-GCM under one key with random nonces (NIST SP 800-38D: at most 2^32 seals a key)."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)

    def seal(self, data: Buffer, context: bytes) -> tuple[bytes, bytes]:
        """Nonce, and ciphertext with tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self.seal_again(data, context, nonce)

    def seal_into(self, place: memoryview, data: Buffer, context: bytes) -> None:
        """Nonce, ciphertext and tag, into `place`: as many bytes as `data` has, and
        `SEAL_OVERHEAD`.
        """
        nonce = os.urandom(NONCE_BYTES)
        place[:NONCE_BYTES] = nonce
        self._cipher.encrypt_into(nonce, data, context, place[NONCE_BYTES:])

    def seal_again(self, data: Buffer, context: bytes, nonce: bytes) -> bytes:
        """Ciphertext and tag of the very data and context that were sealed with `nonce` before:
        a nonce is never used for anything else."""
        return self._cipher.encrypt(nonce, data, context)

    def decipher(self, sealed: Buffer) -> bytes:
        """What follows the nonce, deciphered, the tag too if it is there. Nothing is checked: it
        may be anything (NIST SP 800-38D: GCM is counter mode, from 2 on)."""
        view = memoryview(sealed)
        mode = modes.CTR(bytes(view[:NONCE_BYTES]) + b"\0\0\0\2")
        return Cipher(algorithms.AES(self._key), mode).decryptor().update(view[NONCE_BYTES:])

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


class KeyWrapper(Protocol):
    """Wraps session keys; the seam for a key management service. Thread-safe.

    `key_id` (8 bytes) says which key it is, and is stored beside what that key wrapped.
    """

    @property
    def key_id(self) -> bytes: ...

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """`key` (32 bytes), sealed so that it opens with the same `context` alone; < 64 KiB."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Inverse of `wrap`. Raises `WrongKey`, or `Damaged` for anything else."""


class Unwrapped(NamedTuple):
    """A session's key; the session whose packs it shares (itself, unless it is a fork); and the
    id of the master key that wrapped it."""

    session_key: bytes
    pool: str
    key_id: bytes


def wrap_key(master: KeyWrapper, session_key: bytes, session_id: str, pool: str) -> bytes:
    """The session key as it is stored, for this session and pool alone."""
    return _finish(
        _HEAD.pack(_MAGIC, _VERSION, master.key_id),
        pool.encode(),
        master.wrap(session_key, _key_context(session_id, pool)),
    )


def unwrap_key(wrapped: bytes, session_id: str, *masters: KeyWrapper) -> Unwrapped:
    """Inverse of `wrap_key`, by the one of `masters` that wrapped it.

    Raises `Damaged`, `UnknownFormat`, and `WrongKey` when it was none of them.
    """
    what = f"The key of session {session_id!r}"
    if len(wrapped) > 4 and wrapped.startswith(_MAGIC) and wrapped[4] > _VERSION:
        raise UnknownFormat(what, wrapped[4], _VERSION)
    body = wrapped[:-_CHECKSUM]
    if len(body) < _HEAD.size or blake3(body).digest()[:_CHECKSUM] != wrapped[-_CHECKSUM:]:
        raise Damaged(what, "its checksum differs")
    magic, version, key_id = _HEAD.unpack_from(body)
    if magic != _MAGIC or version < 1:
        raise Damaged(what, "it does not begin as a key")
    if version == 1:
        pool, sealed, context = session_id, body[_HEAD.size :], session_id.encode()
    else:
        pool, sealed = _parts(body[_HEAD.size :], what)
        context = _key_context(session_id, pool)
    for master in masters:
        if master.key_id == key_id:
            try:
                return Unwrapped(master.unwrap(sealed, context), pool, key_id)
            except Damaged as error:
                raise Damaged(what, error.why) from None
    raise WrongKey(f"{what} was wrapped with another master key.")


def wrapped_by(wrapped: bytes) -> bytes:
    """The id of the master key that wrapped an intact key of a session."""
    key_id: bytes = _HEAD.unpack_from(wrapped)[2]
    return key_id


class MasterKey:
    """A key at hand. Whoever has it can read every session of the store."""

    def __init__(self, key: bytes) -> None:
        """Raises `WrongKey` when `key` is not 32 bytes."""
        if len(key) != KEY_BYTES:
            raise WrongKey(f"A master key has {KEY_BYTES} bytes, not {len(key)}.")
        self._sealer = Sealer(_derive(key, "master wrap"))
        self.key_id = _derive(key, "master fingerprint")[:_ID_BYTES]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> MasterKey:
        """The first key in `path`; see `master_keys`, which gives all of them."""
        return master_keys(path)[0]

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Nonce, ciphertext and tag."""
        return b"".join(self._sealer.seal(key, context))

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Inverse of `wrap`. Raises `Damaged`."""
        key = self._sealer.open(wrapped, context, "A wrapped key")
        if len(key) != KEY_BYTES:
            raise Damaged("A wrapped key", f"it has {len(key)} bytes")
        return key


def master_keys(path: str | os.PathLike[str]) -> list[MasterKey]:
    """The master keys in `path`, one of 64 hex digits a line: the first wraps, all unwrap.

    The file is created with mode 0600 and one key if there is none; of several processes that
    create it at once, all get the same key. Raises `WrongKey` when the file holds something else,
    `OSError` when it cannot be read or written.
    """
    path = Path(path)
    if not path.exists():
        _write_key_file(path, [secrets.token_hex(KEY_BYTES)], os.link)
    try:
        return _parsed(path.read_text("ascii"))
    except (ValueError, WrongKey, IsADirectoryError):
        raise WrongKey(f"{path} does not hold a master key (64 hex digits a line).") from None


def master_keys_of_environment(variable: str = ENVIRONMENT) -> list[MasterKey]:
    """The master keys in an environment variable, as in a file; empty when it is not set.

    Raises `WrongKey` when it holds something else; its content is never in the message.
    """
    text = os.environ.get(variable)
    if text is None:
        return []
    try:
        return _parsed(text)
    except (ValueError, WrongKey):
        raise WrongKey(f"{variable} does not hold a master key (64 hex digits).") from None


def find_master_keys(path: str | os.PathLike[str]) -> list[MasterKey]:
    """The master keys of the environment (`ENVIRONMENT`) or, when it has none, of `path`.

    Raises as `master_keys`.
    """
    return master_keys_of_environment() or master_keys(path)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Nobody else replaces keys in `path` meanwhile: a lock that ends with its process.

    Raises `KeysBeingReplaced` when somebody does, `OSError`.
    """
    path = Path(path)
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeysBeingReplaced(str(path)) from None
        yield
    finally:
        os.close(fd)


def add_master_key(path: str | os.PathLike[str]) -> MasterKey:
    """A new key, put before those in `path`. The file has either all or what it had before.

    For who holds `locked(path)`: `checkpoint.rotation.rotate` does.
    """
    path = Path(path)
    master_keys(path)
    _write_key_file(path, [secrets.token_hex(KEY_BYTES), *path.read_text("ascii").split()])
    return master_keys(path)[0]


def keep_first_master_key(path: str | os.PathLike[str]) -> list[Path]:
    """Remove all keys but the first from `path`, each to a file `<path>.old-<key id>` (mode 0600)
    that is there before; these files. Nothing may be wrapped with them any more.

    For who holds `locked(path)`: `checkpoint.rotation.drop_old` does, and looks before.
    """
    path = Path(path)
    master_keys(path)
    first, *others = path.read_text("ascii").split()
    kept = []
    for other in others:
        name = MasterKey(bytes.fromhex(other)).key_id.hex()
        kept.append(path.with_name(f"{path.name}.old-{name}"))
        _write_key_file(kept[-1], [other])
    _write_key_file(path, [first])
    return kept


def _key_context(session_id: str, pool: str) -> bytes:
    return f"session key 2 {session_id} {pool}".encode()


def _finish(head: bytes, pool: bytes, sealed: bytes) -> bytes:
    body = b"".join((head, _TEXT.pack(len(pool), len(sealed)), pool, sealed))
    return body + blake3(body).digest()[:_CHECKSUM]


def _parts(body: bytes, what: str) -> tuple[str, bytes]:
    try:
        pool_size, sealed_size = _TEXT.unpack_from(body)
        rest = body[_TEXT.size :]
        if len(rest) == pool_size + sealed_size:
            return rest[:pool_size].decode(), rest[pool_size:]
    except (struct.error, UnicodeDecodeError):
        pass
    raise Damaged(what, "its lengths do not add up")


def _parsed(text: str) -> list[MasterKey]:
    keys = [MasterKey(bytes.fromhex(word)) for word in text.split()]
    if not keys:
        raise ValueError(text)
    return keys


def _write_key_file(
    path: Path, keys: list[str], place: Callable[[Path, Path], object] = os.replace
) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write("".join(f"{key}\n" for key in keys))
            file.flush()
            os.fsync(file.fileno())
        try:
            place(temporary, path)
        except FileExistsError:  # another process was first; its key counts
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
