"""Keys: what payloads and tokens are encrypted with, and how a key is destroyed with what it protects.

Three kinds, each wrapped by the one before (AES-256-GCM):

- The main keys are the operator's, and never on this disk. The first one wraps; the others, older ones, still unwrap.
- An epoch key wraps the keys of up to `EPOCH_USES` records. It lies, wrapped, in a slot of `spool.keys`, which is
  overwritten in place and synced: what SQLite leaves in its log and in free pages does not concern it.
- A data key encrypts one payload, one token, or the spans of one post. It lies, wrapped, beside what it encrypts.

When a record ends, its epoch is marked. Some seconds later whatever lives on of the epoch is wrapped by another one,
and the epoch's key is overwritten: of the records that ended, every copy of a data key that any file still has is
useless then, to whoever has the main key, too.
"""

import base64
import binascii
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from spool.errors import NO_ROOM, CorruptPayload, KeyUnavailable, SpoolFull, SpoolUnavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYS_NAME = "spool.keys"
NEW_NAME = "spool.keys.new"
"""What takes its place, while it is written."""
KEY_BYTES = 32
EPOCH_USES = 4096
"""So many data keys are wrapped by one epoch key: some 30 ms of work when what lives on has to be wrapped anew."""
_NONCE_BYTES = 12
_KEY_ID_BYTES = 8
WRAPPED_DOCUMENT_KEY_BYTES = _KEY_ID_BYTES + _NONCE_BYTES + KEY_BYTES + 16
"""The length of what `MainKey.wrap` makes of a data key."""


@cache
def _aesgcm() -> "type[AESGCM]":
    """The cipher, imported where a key is configured. Raises `KeyUnavailable` where the library is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise KeyUnavailable(
            "spool.key is set, and the library that encrypts is not installed: pip install 'callspool[encryption]'"
        ) from error
    return AESGCM


def cipher(key: bytes) -> "AESGCM":
    """AES-256-GCM with this key."""
    return _aesgcm()(key)


def decrypted(with_cipher: "AESGCM", nonce: bytes, data: bytes, authenticated: bytes, reason: str) -> bytes:
    """What was encrypted. Raises `CorruptPayload` with this reason where that cannot be told."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an extra

    try:
        return with_cipher.decrypt(nonce, data, authenticated)
    except (InvalidTag, ValueError) as error:
        raise CorruptPayload(reason) from error


def new_key() -> bytes:
    """A data key: for one payload, one token, or the spans of one post."""
    return os.urandom(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class MainKey:
    """A key of the operator's."""

    value: bytes

    @property
    def key_id(self) -> bytes:
        """What names it in files and messages; it says nothing about the key."""
        return sha256(b"callspool main key\0" + self.value).digest()[:_KEY_ID_BYTES]

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """A data key, wrapped, behind the name of this one."""
        nonce = os.urandom(_NONCE_BYTES)
        return self.key_id + nonce + cipher(self.value).encrypt(nonce, key, context)

    def __repr__(self) -> str:
        """Without the key."""
        return f"MainKey({self.key_id.hex()})"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The main keys: the first one wraps, all of them unwrap. Without any, nothing is encrypted."""

    keys: tuple[MainKey, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> "KeyRing":
        """From base64 of 32 bytes each. Raises `ValueError`, without any part of a key."""
        keys = []
        for number, word in enumerate(words, 1):
            try:
                value = base64.b64decode(word, validate=True)
            except binascii.Error:
                value = b""
            if len(value) != KEY_BYTES:
                raise ValueError(
                    f"key {number} is not base64 of {KEY_BYTES} bytes; make one with: openssl rand -base64 32"
                )
            keys.append(MainKey(value))
        return cls(tuple(keys))

    def by_id(self, key_id: bytes) -> MainKey | None:
        """The key of this name, if it is there."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """What a main key wrapped. Raises `KeyUnavailable` where that is not in the ring, and `CorruptPayload`."""
        main = self.by_id(wrapped[:_KEY_ID_BYTES])
        if main is None:
            wanted = wrapped[:_KEY_ID_BYTES].hex()
            raise KeyUnavailable(f"it is encrypted with the key {wanted}, and the keys that were given are {self}")
        return _decrypted(cipher(main.value), wrapped[_KEY_ID_BYTES:], context, "its key was changed")

    def __str__(self) -> str:
        """The names of the keys."""
        return ", ".join(key.key_id.hex() for key in self.keys) or "none"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it lies in the database: the number of the epoch whose key wraps it, and the wrapped bytes."""

    epoch: int
    value: bytes


# The file of epoch keys: slots of one size, none of which lies across the border of two sectors.

_SLOT = struct.Struct(">4sBB2xQ8s60s")
"""Mark, whether the slot is in use, whether a record of the epoch ended, number, name of the main key, wrapped key."""
_SLOT_BYTES = 128
_MARK = b"CSK1"
_GROW_SLOTS = 512
_ENDED_AT = 5


@dataclass(slots=True, eq=False)
class _Epoch:
    """An epoch whose key is there."""

    number: int
    slot: int
    cipher: "AESGCM"
    main_key: bytes
    """The name of the main key that wraps its own."""
    uses: int = 0
    ended: bool = False
    """Whether something that it protected has ended."""


def used_keys(path: Path) -> set[bytes]:
    """The names of the main keys that the epochs in this file are wrapped by; none where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    return {fields[4] for _, fields in _slots(data)}


def epochs_in(path: Path) -> set[int]:
    """The numbers of the epochs whose keys are in this file; none where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    return {fields[3] for _, fields in _slots(data)}


def require_keys(directory: Path, ring: KeyRing) -> None:
    """Raise `KeyUnavailable` where the spool in `directory` is encrypted with a key that is not in the ring."""
    path = directory / KEYS_NAME
    missing = sorted(key_id.hex() for key_id in used_keys(path) if ring.by_id(key_id) is None)
    if missing:
        wanted = " and ".join(missing)
        given = f"the configured keys are {ring}" if ring.keys else "no key is configured"
        raise KeyUnavailable(
            f"the spool in {directory} is encrypted with the key {wanted}, and {given}: let "
            "CALLSPOOL_SPOOL_KEY_FILE name a file that holds that key (older keys stand below the current one); "
            "nothing was changed"
        )


class SpoolKeys:
    """The epoch keys of a spool. For the writer's thread, but for `unwrap`, which any thread may call.

    Without a main key nothing is encrypted, and nothing is written.
    """

    def __init__(self, path: Path | None = None, ring: KeyRing | None = None) -> None:
        self._ring = ring or KeyRing()
        self.enabled = bool(self._ring.keys)
        """Whether what comes in is encrypted."""
        self._path = path
        self._epochs: dict[int, _Epoch] = {}
        self._current: dict[bool, _Epoch] = {}
        """The epoch for new keys, and that for those that lived on."""
        self._free: list[int] = []
        self._slots = 0
        self._descriptor = -1

    @classmethod
    def open(cls, directory: Path, ring: KeyRing, *, needed: bool = False) -> "SpoolKeys":
        """Read the keys of a spool, and make their file where there is a main key, and none yet.

        `needed` says whether anything is encrypted with them. Raises `KeyUnavailable` for a missing or wrong main key,
        or a missing file, and `OSError`.
        """
        if needed and not used_keys(directory / KEYS_NAME):
            raise KeyUnavailable(
                f"{directory / KEYS_NAME} is not there or empty, and call logs in the spool are encrypted with the "
                "keys in it: put it back. If it is lost, so are they: move the database away then, and start anew"
            )
        _erase(directory / NEW_NAME)
        if ring.keys and not (directory / KEYS_NAME).exists():
            os.close(_created(directory / KEYS_NAME))
            _sync_directory(directory)
        return cls.read(directory, ring)

    @classmethod
    def read(cls, directory: Path, ring: KeyRing) -> "SpoolKeys":
        """The same of a spool that is not this process's own: no file is made."""
        require_keys(directory, ring)
        keys = cls(directory / KEYS_NAME, ring)
        if (directory / KEYS_NAME).exists():
            keys._open(directory / KEYS_NAME)
        return keys

    @property
    def has_file(self) -> bool:
        """Whether there is a file of keys, be it empty."""
        return self._descriptor >= 0

    @property
    def ring(self) -> KeyRing:
        """The main keys."""
        return self._ring

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # Data keys -----------------------------------------------------------------------------------------------------

    def wrap(self, secret: bytes, context: bytes, *, lived_on: bool = False) -> WrappedKey:
        """Wrap a data key, or something as short; `context` says what it is for, and must be said again to unwrap it.

        The key that wraps is durable when this returns. Raises `SpoolError` where it cannot be made so.
        """
        epoch = self._current.get(lived_on)
        if epoch is None or epoch.uses >= EPOCH_USES:
            with _written_to(self._path):
                epoch = self._current[lived_on] = self._new_epoch()
        epoch.uses += 1
        nonce = os.urandom(_NONCE_BYTES)
        return WrappedKey(epoch.number, nonce + epoch.cipher.encrypt(nonce, secret, context))

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """What was wrapped. Raises `CorruptPayload` where its epoch is not there any more, or it was changed."""
        epoch = self._epochs.get(wrapped.epoch)
        if epoch is None:
            raise CorruptPayload("the key that it was encrypted with is not there any more")
        return _decrypted(epoch.cipher, wrapped.value, context, "its key was changed or belongs to something else")

    # The end of epochs ---------------------------------------------------------------------------------------------

    def ended(self, numbers: Iterable[int]) -> None:
        """Something of these epochs has ended, or is about to; durable when this returns. Raises `SpoolError`."""
        marked = [epoch for number in numbers if (epoch := self._epochs.get(number)) and not epoch.ended]
        if not marked:
            return
        with _written_to(self._path):
            for epoch in marked:
                os.pwrite(self._descriptor, b"\1", epoch.slot * _SLOT_BYTES + _ENDED_AT)
            os.fdatasync(self._descriptor)
        for epoch in marked:
            epoch.ended = True

    def retire(self) -> list[int]:
        """The epochs of which something ended; nothing is wrapped by them from now on."""
        retired = [number for number, epoch in self._epochs.items() if epoch.ended]
        self._current = {kind: epoch for kind, epoch in self._current.items() if not epoch.ended}
        return retired

    def destroy(self, numbers: Sequence[int]) -> None:
        """Overwrite the keys of these epochs; they are gone from the disk when this returns. Raises `SpoolError`."""
        gone = [self._epochs[number] for number in numbers if number in self._epochs]
        self._current = {kind: epoch for kind, epoch in self._current.items() if epoch not in gone}
        if not gone:
            return
        with _written_to(self._path):
            for epoch in gone:
                os.pwrite(self._descriptor, bytes(_SLOT_BYTES), epoch.slot * _SLOT_BYTES)
            os.fdatasync(self._descriptor)
        for epoch in gone:
            del self._epochs[epoch.number]
            self._free.append(epoch.slot)

    @property
    def numbers(self) -> list[int]:
        """Of all epochs."""
        return list(self._epochs)

    # The main key --------------------------------------------------------------------------------------------------

    @property
    def stale(self) -> int:
        """How many epoch keys are wrapped by an older main key than the current one."""
        return sum(epoch.main_key != self._main.key_id for epoch in self._epochs.values())

    def rewrap(self) -> int:
        """Wrap every epoch key by the current main key; returns how many were not. Raises `SpoolError`.

        The new file takes the old one's place in one step, and then the old one is overwritten: a kill leaves one of
        them.
        """
        assert self._path is not None
        stale = self.stale
        if not stale:
            return 0
        data = bytearray(self._slots * _SLOT_BYTES)
        for at, (_, used, ended, number, key_id, wrapped) in _slots(self._read()):
            key = self._unwrapped(number, key_id, wrapped)
            epoch = self._epochs.get(number)
            if key is None or epoch is None:  # damaged: it stays as it is
                _SLOT.pack_into(data, at, _MARK, used, ended, number, key_id, wrapped)
            else:
                data[at : at + _SLOT_BYTES] = self._slot_of(number, key, ended=epoch.ended)
        beside = self._path.with_name(NEW_NAME)
        with _written_to(beside):
            _erase(beside)
            descriptor = _created(beside)
            try:
                _write_all(descriptor, bytes(data))
                beside.rename(self._path)
            except OSError:
                os.close(descriptor)
                raise
            old, self._descriptor = self._descriptor, descriptor
            try:
                _sync_directory(self._path.parent)
                _write_all(old, bytes(len(data)))
            finally:
                os.close(old)
        for epoch in self._epochs.values():
            epoch.main_key = self._main.key_id
        return stale

    # The file ------------------------------------------------------------------------------------------------------

    @property
    def _main(self) -> MainKey:
        return self._ring.keys[0]

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        data = self._read()
        self._slots = len(data) // _SLOT_BYTES
        taken = set()
        for at, (_, _, ended, number, key_id, wrapped) in _slots(data):
            taken.add(at // _SLOT_BYTES)
            key = self._unwrapped(number, key_id, wrapped)
            if key is not None:
                self._epochs[number] = _Epoch(number, at // _SLOT_BYTES, cipher(key), key_id, EPOCH_USES, bool(ended))
        self._free = [slot for slot in range(self._slots) if slot not in taken]

    def _unwrapped(self, number: int, key_id: bytes, wrapped: bytes) -> bytes | None:
        """The key of an epoch; None for a slot that is damaged, or was never synced."""
        main = self._ring.by_id(key_id)
        try:
            return None if main is None else _decrypted(cipher(main.value), wrapped, _epoch_context(number), "damaged")
        except CorruptPayload:
            return None

    def _new_epoch(self) -> _Epoch:
        if not self._free:
            _write_at(self._descriptor, bytes(_GROW_SLOTS * _SLOT_BYTES), self._slots * _SLOT_BYTES)
            os.fsync(self._descriptor)
            self._free = list(range(self._slots, self._slots + _GROW_SLOTS))
            self._slots += _GROW_SLOTS
        # By chance: whatever of an earlier epoch lies about somewhere, in a copy of the spool, too, has another number.
        number, slot, key = secrets.randbits(62), self._free[-1], new_key()
        _write_at(self._descriptor, self._slot_of(number, key, ended=False), slot * _SLOT_BYTES)
        os.fdatasync(self._descriptor)
        self._free.pop()
        epoch = self._epochs[number] = _Epoch(number, slot, cipher(key), self._main.key_id)
        return epoch

    def _slot_of(self, number: int, key: bytes, *, ended: bool) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        wrapped = nonce + cipher(self._main.value).encrypt(nonce, key, _epoch_context(number))
        return _SLOT.pack(_MARK, 1, int(ended), number, self._main.key_id, wrapped).ljust(_SLOT_BYTES, b"\0")

    def _read(self) -> bytes:
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)


def _slots(data: bytes) -> Iterable[tuple[int, tuple[bytes, int, int, int, bytes, bytes]]]:
    """Where each slot in use begins, and its fields."""
    for at in range(0, len(data) - _SLOT_BYTES + 1, _SLOT_BYTES):
        fields = _SLOT.unpack_from(data, at)
        if fields[0] == _MARK and fields[1]:
            yield at, fields


def _epoch_context(number: int) -> bytes:
    return b"callspool epoch %d" % number


def _decrypted(with_cipher: "AESGCM", data: bytes, context: bytes, reason: str) -> bytes:
    return decrypted(with_cipher, data[:_NONCE_BYTES], data[_NONCE_BYTES:], context, reason)


@contextmanager
def _written_to(path: Path | None) -> Iterator[None]:
    """Raise the spool's errors instead of the operating system's from the block."""
    try:
        yield
    except OSError as error:
        what = f"writing {path} failed: {error.strerror}"
        if error.errno in NO_ROOM:
            raise SpoolFull(f"the disk is full: {what}; free space on it", used_bytes=0, limit_bytes=None) from error
        raise SpoolUnavailable(f"{what}; check the disk of the spool directory") from error


def _erase(path: Path) -> None:
    """Overwrite a file and remove it, if it is there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        _write_all(descriptor, bytes(os.fstat(descriptor).st_size))
    finally:
        os.close(descriptor)
    path.unlink()


def _created(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _write_all(descriptor: int, data: bytes) -> None:
    _write_at(descriptor, data, 0)
    os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
