"""Upload addresses: given out before anything is accepted, so counted, capped by sender, and gone when they expire.

Whoever may post may ask for addresses, each with a key of up to 8 KB that must be kept until the address is used. So
the addresses that were not used yet share a small part of the quota. Above it the oldest one of the sender that has
the most makes room: an SDK uses its address at once, while a flood of requests pushes out its own.
"""

from collections.abc import Sequence
from functools import partial

from spool.db import sql
from spool.db.tokens import hash_of
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.space import Quota

ROW_BYTES = 512
"""What an address takes besides its call id and its token, about, in the table, its indices, and the log."""
QUOTA_SHARE = 64
"""The part of the quota that unused addresses take at most."""
MOST = 4096
"""And how many of them there are at most: some 500 bytes of memory each."""


class UploadAddresses:
    """The unused addresses of this process. For the event loop.

    Those of the process before are not among them: they expire within the lifetime of an address.
    """

    def __init__(self, writer: Writer, quota: Quota) -> None:
        self._writer = writer
        self._quota = quota
        self._by_sender: dict[bytes | None, dict[bytes, tuple[int, int]]] = {}
        """By the hash of their token: 4,096 senders with tokens of 8 KB would be 32 MB."""
        self._senders: dict[bytes, bytes | None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._senders)

    async def add(self, key_hash: bytes, s3_key: str, call_id: str, token: str | None, expires_at: int) -> None:
        """Remember an address; durable when this returns. Raises `SpoolError`.

        Addresses that it makes exceed the limits are forgotten in the same transaction.
        """
        size = ROW_BYTES + len(call_id.encode("utf-8", "surrogatepass")) + len(token or "")
        self._note(key_hash, hash_of(token) if token else None, expires_at, size)
        evicted = self._evict(key_hash)
        operation = partial(
            _register_upload,
            key_hash=key_hash,
            s3_key=s3_key,
            call_id=call_id,
            token=token,
            expires_at=expires_at,
            evicted=evicted,
        )
        try:
            with self._quota.reserve(size, self._writer.total_bytes):
                await self._writer.submit(operation, size)
        except BaseException:
            self.used(key_hash)
            raise

    def used(self, key_hash: bytes) -> None:
        """A call log came through the address: what it takes is that call log's now."""
        if key_hash in self._senders:
            sender = self._senders.pop(key_hash)
            addresses = self._by_sender[sender]
            self._bytes -= addresses.pop(key_hash)[1]
            if not addresses:
                del self._by_sender[sender]

    def expire(self, now: int) -> None:
        """Forget those that have expired; their rows are deleted by maintenance."""
        expired = [
            key_hash
            for addresses in self._by_sender.values()
            for key_hash, (expires_at, _) in addresses.items()
            if expires_at < now
        ]
        for key_hash in expired:
            self.used(key_hash)

    def _note(self, key_hash: bytes, sender: bytes | None, expires_at: int, size: int) -> None:
        self._senders[key_hash] = sender
        self._by_sender.setdefault(sender, {})[key_hash] = (expires_at, size)
        self._bytes += size

    def _evict(self, newest: bytes) -> tuple[bytes, ...]:
        """Choose what goes, until the rest is within the limits: the oldest of the sender that has the most."""
        evicted = []
        limit = self._quota.limit_bytes // QUOTA_SHARE
        while len(self._senders) > MOST or (self._bytes > limit and len(self._senders) > 1):
            largest = max(self._by_sender.values(), key=len)
            oldest = next(iter(largest))
            if oldest == newest:  # all have one: the oldest of all goes, as the senders are in their order
                oldest = next(iter(self._senders))
            evicted.append(oldest)
            self.used(oldest)
        return tuple(evicted)


def _register_upload(
    transaction: Transaction,
    key_hash: bytes,
    s3_key: str,
    call_id: str,
    token: str | None,
    expires_at: int,
    evicted: Sequence[bytes],
) -> None:
    """One row, and one more use of the token."""
    for other in evicted:
        _delete_unused(transaction, other)
    token_id = transaction.tokens.use(transaction.connection, token) if token else None
    transaction.execute(sql.ADD_UPLOAD, (key_hash, s3_key, call_id, token_id, expires_at))


def _delete_unused(transaction: Transaction, key_hash: bytes) -> None:
    row = transaction.execute(sql.UNUSED_UPLOAD, (key_hash,)).fetchone()
    if row is None:
        return  # a call log came through it just now
    if row[0] is not None:
        transaction.tokens.release(row[0])
    transaction.execute(sql.DELETE_UPLOAD, (key_hash,))
