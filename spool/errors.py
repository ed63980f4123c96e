"""The spool's error tree: everything the durable store raises is a `SpoolError`.

Errors of SQLite and of the operating system are translated into this tree in `spool.db.connection.translate`.
Each message says what happened, to what, and what to do.
"""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the operating system says where a disk, or a user's share of it, is full."""


class SpoolError(Exception):
    """Base of all errors of the spool."""


class SpoolUnavailable(SpoolError):
    """The spool can be neither written nor read at the moment: it is closed, closing, or its disk fails."""


class SpoolFull(SpoolError):
    """The quota or the disk has no room for this record; nothing of it was kept.

    `used_bytes` and `limit_bytes` say how full the spool is; `limit_bytes` is None when the disk, not the
    quota, was the limit. `allowed_bytes` is the part of the limit that was open to this record; `stored_bytes` and
    `staged_bytes` are what it is known to need of that, when it failed.
    """

    def __init__(
        self, message: str, *, used_bytes: int, limit_bytes: int | None, allowed_bytes: int | None = None
    ) -> None:
        super().__init__(message)
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        self.allowed_bytes = allowed_bytes
        self.stored_bytes = 0
        self.staged_bytes = 0

    @property
    def never_fits(self) -> bool:
        """Whether the record would not fit into an empty spool either.

        An eighth is left to the headroom, the empty database and its log, and to what is stored beside a staged body.
        """
        if self.allowed_bytes is None:
            return False
        return self.stored_bytes + self.staged_bytes > self.allowed_bytes - self.allowed_bytes // 8


class CallHasEnded(SpoolError):
    """The call is not live any more: its end was accepted."""


class CallIsLive(SpoolError):
    """The call was heard of, or ended, after the call log was made that says that its agent is lost."""


class TooMuchLive(SpoolError):
    """There are more live calls, or more of their turns, than may be kept; nothing of this post was.

    `of_call`: the call alone has too much, whatever else there is.
    """

    def __init__(self, message: str, *, of_call: bool = False) -> None:
        super().__init__(message)
        self.of_call = of_call


class SpoolLocked(SpoolError):
    """Another process owns the spool directory."""


class UnsuitableDirectory(SpoolError):
    """The spool directory cannot hold a spool: a network file system, not writable, or not a directory."""


class SchemaTooNew(SpoolError):
    """The database was written by a newer callspool; this one refuses to guess what it means."""


class KeyUnavailable(SpoolError):
    """The key that a spool is encrypted with is not configured, or another one is; nothing was changed."""


class NotStorable(SpoolError):
    """A value that no retry can store: text with a lone surrogate, a number beyond 64 bits, a key that is taken.

    It concerns one operation; nothing of that was kept, and the spool works as before.
    """


class CorruptPayload(SpoolError):
    """A stored chunk is missing, does not match its checksum, or cannot be decrypted."""


class CorruptDatabase(SpoolError):
    """SQLite says that the database file is malformed or not a database."""
