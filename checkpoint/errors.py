"""Everything that can go wrong in `checkpoint`.

    CheckpointError
    ├── StoreError                  the blob store itself
    │   ├── NotFound                no object under that key
    │   ├── AlreadyExists           create() found the key taken
    │   ├── StoreUnavailable        no answer, or a passing failure     (retryable)
    │   │   └── TransferBroken      in the middle of an object; says how to go on
    │   ├── StoreFull               no space, quota or size limit       (retryable)
    │   ├── StoreNotWritable        permissions, read-only, not a directory, no such bucket
    │   │   └── CredentialsRefused  none were found, or they are not good
    │   ├── ConditionNotHonoured    create() overwrote: unfit for sessions
    │   └── UnsupportedStore        a store URL nobody here understands
    ├── StaleWriter                 another writer has the session
    │   └── SessionDeleted          nobody has it any more
    ├── SessionInUse                somebody runs it
    ├── Damaged                     an object is not what was written; names it
    ├── UnknownFormat               written by a newer version
    ├── WrongKey                    a key that does not open the object
    ├── KeysBeingReplaced           somebody else replaces the master key just now
    ├── KeyStillNeeded              a master key that cannot go yet
    ├── InvalidImage                a process image that cannot be read or that CRIU would refuse
    ├── MemoryLost                  a process that runs already cannot be given all its memory
    └── FileTreeError               a path of a file tree that is not there, or not of that kind
        └── FilesNotWritten         a directory that a file tree cannot be restored into

`code` is stable and for machines, `retryable` says whether the same call may succeed later,
`hint` says what to do; `str(error)` is the text a user reads.
"""

from __future__ import annotations

from collections.abc import Callable


class CheckpointError(Exception):
    """Root of the tree."""

    code: str = "checkpoint_error"
    retryable: bool = False
    hint: str = ""


class StoreError(CheckpointError):
    """The blob store failed, or is not fit for use."""

    code = "store_error"


class NotFound(StoreError):
    """There is no object under `key`."""

    code = "not_found"
    hint = "It may have been removed; an older checkpoint may still be intact."

    def __init__(self, key: str) -> None:
        super().__init__(f"The store has no object {key!r}.")
        self.key = key


class AlreadyExists(StoreError):
    """`create()` found an object under `key`."""

    code = "already_exists"

    def __init__(self, key: str) -> None:
        super().__init__(f"The store already has an object {key!r}.")
        self.key = key


class StoreUnavailable(StoreError):
    """The store did not answer, or failed in a way that may pass."""

    code = "store_unavailable"
    retryable = True
    hint = "Sessions go on; checkpoints are tried again."


class TransferBroken(StoreUnavailable):
    """Reading an object broke off. `received` bytes came since the call; `resume()` reads the rest
    and gives what the broken call would have given, or raises as that did.
    """

    code = "transfer_broken"

    def __init__(self, message: str, received: int, resume: Callable[[], bytes]) -> None:
        super().__init__(message)
        self.received = received
        self.resume = resume


class StoreFull(StoreError):
    """No space left, a quota is used up, or a file would be too large."""

    code = "store_full"
    retryable = True
    hint = "Free space in the store, or raise its quota; what was committed is intact."


class StoreNotWritable(StoreError):
    """The store refuses writes: permissions, read-only file system, or not a directory."""

    code = "store_not_writable"
    hint = "Give a store that this user may write to."


class CredentialsRefused(StoreNotWritable):
    """There are no credentials for the store, or it does not take them."""

    code = "store_credentials_refused"
    hint = (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the gateway runs, or name a profile"
        " in AWS_PROFILE."
    )


class ConditionNotHonoured(StoreError):
    """The store overwrote an object that `create()` should have left alone."""

    code = "condition_not_honoured"
    hint = (
        "Two writers could both own a session there. Use a local directory, or an object store"
        " that honours If-None-Match."
    )


class UnsupportedStore(StoreError):
    """No blob store is known for this URL."""

    code = "unsupported_store"
    hint = "Give a directory (a path, or file:///path) or a bucket (s3://bucket/prefix)."


class StaleWriter(CheckpointError):
    """Somebody else wrote to the chain: this writer does not own the session any more.

    `number` and `epoch` are those of the manifest that is there instead (None when unreadable).
    """

    code = "stale_writer"
    hint = "The session goes on elsewhere; stop its kernels here."

    def __init__(self, session_id: str, number: int, epoch: int | None) -> None:
        under = "" if epoch is None else f", written under epoch {epoch}"
        super().__init__(
            f"Another writer has session {session_id!r}: its checkpoint {number} exists{under}."
        )
        self.session_id = session_id
        self.number = number
        self.epoch = epoch


class SessionDeleted(StaleWriter):
    """The session was deleted, or its deletion has begun: nothing can be added to it."""

    code = "session_deleted"
    hint = "`sessionkeeper store delete` again finishes a deletion that was stopped."

    def __init__(self, session_id: str) -> None:
        CheckpointError.__init__(self, f"Session {session_id!r} was deleted.")
        self.session_id = session_id


class SessionInUse(CheckpointError):
    """Somebody runs the session, on the machine `where`."""

    code = "session_in_use"
    hint = "Stop it first: `sessionkeeper down` where it runs."

    def __init__(self, session_id: str, where: str) -> None:
        super().__init__(f"Session {session_id!r} is run by a gateway on {where}.")
        self.session_id = session_id
        self.where = where


class Damaged(CheckpointError):
    """An object in the store is not what was written there. `what` names it."""

    code = "damaged"
    hint = "An older checkpoint may be intact; restore takes the newest one that is."

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is damaged: {why}.")
        self.what = what
        self.why = why


class UnknownFormat(CheckpointError):
    """An object has a format version that this release does not know."""

    code = "unknown_format"
    hint = "It was written by a newer sessionkeeper; upgrade this one."

    def __init__(self, what: str, version: int, known: int) -> None:
        super().__init__(
            f"{what} has format version {version}; this release reads up to version {known}."
        )
        self.what = what
        self.version = version
        self.known = known


class WrongKey(CheckpointError):
    """The key given does not open the object, or is not a key."""

    code = "wrong_key"
    hint = "Give the master key file this store was set up with."


class KeysBeingReplaced(CheckpointError):
    """Another process replaces the master key in the file `path`."""

    code = "keys_being_replaced"
    hint = "Wait until it has ended, and see what it said."

    def __init__(self, path: str) -> None:
        super().__init__(f"Another process replaces the master key in {path} just now.")


class KeyStillNeeded(CheckpointError):
    """An old master key cannot be taken away yet, or nothing says that it can."""

    code = "key_still_needed"
    hint = "Run `sessionkeeper store rotate-key` to its end first, on the store that has sessions."


class InvalidImage(CheckpointError):
    """A process image directory is incomplete, or in a form that is not understood."""

    code = "invalid_image"
    hint = "Take a full dump (CRIU 4.2 or later) of the process tree."


class FileTreeError(CheckpointError):
    """A path in a file tree is not there, or is not of the kind asked for."""

    code = "no_such_path"


class FilesNotWritten(FileTreeError):
    """Nothing can be written where a file tree is to be restored: no space, or read-only."""

    code = "files_not_written"
    hint = "Free space where sessions' files are kept, or restore elsewhere; nothing is lost."

    def __init__(self, why: str) -> None:
        super().__init__(f"The files cannot be written: {why}.")


class UnknownSession(CheckpointError):
    """The store has no session of that id."""

    code = "unknown_session"
    hint = "`sessionkeeper store list` lists the sessions."

    def __init__(self, session_id: str) -> None:
        super().__init__(f"The store has no session {session_id!r}.")
        self.session_id = session_id


class SessionExists(CheckpointError):
    """A fork would have the id of a session that exists."""

    code = "session_exists"
    hint = "Give the fork another id; the session was left as it is."

    def __init__(self, session_id: str) -> None:
        super().__init__(f"There is a session {session_id!r} already.")
        self.session_id = session_id


class MemoryLost(CheckpointError):
    """A process that was restored lazily, and may run already, cannot be given all its memory."""

    code = "memory_lost"
    hint = "The process has to be ended; it can be restored again."

    def __init__(self, why: str) -> None:
        super().__init__(f"The memory of a restored process did not arrive: {why}")


class UnknownTag(CheckpointError):
    """A session has no tag of that name."""

    code = "unknown_tag"
    hint = "`sessionkeeper store show` lists a session's tags."

    def __init__(self, session_id: str, name: str) -> None:
        super().__init__(f"Session {session_id!r} has no tag {name!r}.")
        self.name = name


class UnknownCheckpoint(CheckpointError):
    """A session has no checkpoint of that number."""

    code = "unknown_checkpoint"
    hint = "`sessionkeeper store show` lists a session's checkpoints."

    def __init__(self, session_id: str, number: int | None) -> None:
        which = "no checkpoint" if number is None else f"no checkpoint {number}"
        super().__init__(f"Session {session_id!r} has {which}.")
        self.number = number
