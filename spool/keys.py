"""The keys that encrypt payloads and tokens: envelope encryption and crypto-shredding.

There are three kinds, each wrapped by the one before (AES-256-GCM):

- Main keys belong to the operator and are never stored on this disk. The first one wraps; older ones still unwrap.
- An epoch key wraps up to `EPOCH_USES` data keys. It is stored, wrapped, in a slot of `spool.keys`. The slot is
  overwritten in place and synced, so no copy of the key stays in SQLite's log or free pages.
- A data key encrypts one payload, one token, or the spans of one post. It is stored, wrapped, beside what it encrypts.

When a record ends, its epoch is marked. Some seconds later, the data keys of the epoch's other records are wrapped with
another epoch key, and this one is overwritten. From then on, no copy of an ended record's data key can be unwrapped,
not even with the main key.
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
"""The name of its replacement while that is being written."""
KEY_BYTES = 32
EPOCH_USES = 4096
"""How many data keys one epoch key wraps. Rewrapping that many takes about 30 ms."""
_NONCE_BYTES = 12
_KEY_ID_BYTES = 8
WRAPPED_DOCUMENT_KEY_BYTES = _KEY_ID_BYTES + _NONCE_BYTES + KEY_BYTES + 16
"""The length of a data key wrapped by `MainKey.wrap`."""


@cache
def _aesgcm() -> "type[AESGCM]":
    """The cipher, imported only if a key is configured. Raises `KeyUnavailable` if the library is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise KeyUnavailable(
            "spool.key is set, but the encryption library is not installed: pip install 'callspool[encryption]'"
        ) from error
    return AESGCM


def cipher(key: bytes) -> "AESGCM":
    """AES-256-GCM with this key."""
    return _aesgcm()(key)


def decrypted(with_cipher: "AESGCM", nonce: bytes, data: bytes, authenticated: bytes, reason: str) -> bytes:
    """The plaintext. Raises `CorruptPayload` with this reason if the data does not authenticate."""
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
    """A main key, which the operator configured."""

    value: bytes

    @property
    def key_id(self) -> bytes:
        """Identifies the key in files and messages; a hash, so it reveals nothing of the key."""
        return sha256(b"callspool main key\0" + self.value).digest()[:_KEY_ID_BYTES]

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """The id of this main key, followed by the wrapped data key."""
        nonce = os.urandom(_NONCE_BYTES)
        return self.key_id + nonce + cipher(self.value).encrypt(nonce, key, context)

    def __repr__(self) -> str:
        """Without the key."""
        return f"MainKey({self.key_id.hex()})"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The main keys: the first one wraps, any of them unwraps. If there are none, nothing is encrypted."""

    keys: tuple[MainKey, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> "KeyRing":
        """Keys from base64 of 32 bytes each. Raises `ValueError`, whose message has no part of a key."""
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
        """The key with this id, if the ring has it."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Unwrap a data key. Raises `KeyUnavailable` if its main key is not in the ring, or `CorruptPayload`."""
        main = self.by_id(wrapped[:_KEY_ID_BYTES])
        if main is None:
            wanted = wrapped[:_KEY_ID_BYTES].hex()
            raise KeyUnavailable(f"it is encrypted with the key {wanted}, but the given keys are {self}")
        return _decrypted(cipher(main.value), wrapped[_KEY_ID_BYTES:], context, "its key was changed")

    def __str__(self) -> str:
        """The ids of the keys."""
        return ", ".join(key.key_id.hex() for key in self.keys) or "none"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as stored in the database: the number of the epoch whose key wraps it, and the wrapped bytes."""

    epoch: int
    value: bytes


# The file of epoch keys consists of slots of one size; no slot crosses a sector boundary.

_SLOT = struct.Struct(">4sBB2xQ8s60s")
"""Mark, whether the slot is in use, whether a record of the epoch ended, number, id of the main key, wrapped key."""
_SLOT_BYTES = 128
_MARK = b"CSK1"
_GROW_SLOTS = 512
_ENDED_AT = 5


@dataclass(slots=True, eq=False)
class _Epoch:
    """An epoch whose key is available."""

    number: int
    slot: int
    cipher: "AESGCM"
    main_key: bytes
    """The id of the main key that wraps the epoch key."""
    uses: int = 0
    ended: bool = False
    """Whether a record protected by it has ended."""


def used_keys(path: Path) -> set[bytes]:
    """The ids of the main keys that wrap the epoch keys in this file; none if there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    return {fields[4] for _, fields in _slots(data)}


def epochs_in(path: Path) -> set[int]:
    """The numbers of the epochs whose keys are in this file; none if there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    return {fields[3] for _, fields in _slots(data)}


def require_keys(directory: Path, ring: KeyRing) -> None:
    """Raise `KeyUnavailable` if the spool in `directory` is encrypted with a key that is not in the ring."""
    path = directory / KEYS_NAME
    missing = sorted(key_id.hex() for key_id in used_keys(path) if ring.by_id(key_id) is None)
    if missing:
        wanted = " and ".join(missing)
        given = f"the configured keys are {ring}" if ring.keys else "no key is configured"
        raise KeyUnavailable(
            f"the spool in {directory} is encrypted with the key {wanted}, but {given}: set "
            "CALLSPOOL_SPOOL_KEY_FILE to a file that holds that key (older keys go below the current one); "
            "nothing was changed"
        )


class SpoolKeys:
    """The epoch keys of a spool. Only the writer's thread may use them, except `unwrap`, which is thread-safe.

    Without a main key, nothing is encrypted and no file is written.
    """

    def __init__(self, path: Path | None = None, ring: KeyRing | None = None) -> None:
        self._ring = ring or KeyRing()
        self.enabled = bool(self._ring.keys)
        """Whether new payloads are encrypted."""
        self._path = path
        self._epochs: dict[int, _Epoch] = {}
        self._current: dict[bool, _Epoch] = {}
        """The epochs in use: one for new data keys, one for rewrapped data keys."""
        self._free: list[int] = []
        self._slots = 0
        self._descriptor = -1

    @classmethod
    def open(cls, directory: Path, ring: KeyRing, *, needed: bool = False) -> "SpoolKeys":
        """Read the keys of a spool; create their file if there is a main key and no file yet.

        `needed`: whether the spool has data encrypted with them. Raises `KeyUnavailable` if the main key is missing or
        wrong, or the file is missing, and `OSError`.
        """
        if needed and not used_keys(directory / KEYS_NAME):
            raise KeyUnavailable(
                f"{directory / KEYS_NAME} is missing or empty, and call logs in the spool are encrypted with its keys: "
                "restore it. If it is lost, so are they: move the database away, and start with an empty spool"
            )
        _erase(directory / NEW_NAME)
        if ring.keys and not (directory / KEYS_NAME).exists():
            os.close(_created(directory / KEYS_NAME))
            _sync_directory(directory)
        return cls.read(directory, ring)

    @classmethod
    def read(cls, directory: Path, ring: KeyRing) -> "SpoolKeys":
        """Read the keys of a spool that this process does not own; creates no file."""
        require_keys(directory, ring)
        keys = cls(directory / KEYS_NAME, ring)
        if (directory / KEYS_NAME).exists():
            keys._open(directory / KEYS_NAME)
        return keys

    @property
    def has_file(self) -> bool:
        """Whether the key file exists, even if it is empty."""
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
        """Wrap a data key, or another short secret. `context` says what it is for; unwrapping needs the same context.

        The wrapping epoch key is durable when this returns. Raises `SpoolError` if it cannot be made durable.
        """
        epoch = self._current.get(lived_on)
        if epoch is None or epoch.uses >= EPOCH_USES:
            with _written_to(self._path):
                epoch = self._current[lived_on] = self._new_epoch()
        epoch.uses += 1
        nonce = os.urandom(_NONCE_BYTES)
        return WrappedKey(epoch.number, nonce + epoch.cipher.encrypt(nonce, secret, context))

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """The secret. Raises `CorruptPayload` if its epoch key no longer exists, or the wrapped key was changed."""
        epoch = self._epochs.get(wrapped.epoch)
        if epoch is None:
            raise CorruptPayload("the key that it was encrypted with no longer exists")
        return _decrypted(epoch.cipher, wrapped.value, context, "its key was changed or belongs to something else")

    # The end of epochs ---------------------------------------------------------------------------------------------

    def ended(self, numbers: Iterable[int]) -> None:
        """Mark these epochs: a record of them has ended, or is about to. Durable on return. Raises `SpoolError`."""
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
        """Return the marked epochs; from now on, their keys wrap nothing new."""
        retired = [number for number, epoch in self._epochs.items() if epoch.ended]
        self._current = {kind: epoch for kind, epoch in self._current.items() if not epoch.ended}
        return retired

    def destroy(self, numbers: Sequence[int]) -> None:
        """Overwrite the keys of these epochs. On return, they are gone from the disk. Raises `SpoolError`."""
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
        """The numbers of all epochs."""
        return list(self._epochs)

    # The main key --------------------------------------------------------------------------------------------------

    @property
    def stale(self) -> int:
        """How many epoch keys are wrapped by an older main key than the current one."""
        return sum(epoch.main_key != self._main.key_id for epoch in self._epochs.values())

    def rewrap(self) -> int:
        """Wrap every epoch key with the current main key; returns how many had another one. Raises `SpoolError`.

        The new file replaces the old one atomically; then the old one is overwritten. A kill leaves one complete file.
        """
        assert self._path is not None
        stale = self.stale
        if not stale:
            return 0
        data = bytearray(self._slots * _SLOT_BYTES)
        for at, (_, used, ended, number, key_id, wrapped) in _slots(self._read()):
            key = self._unwrapped(number, key_id, wrapped)
            epoch = self._epochs.get(number)
            if key is None or epoch is None:  # damaged: keep the slot unchanged
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
        """The key of an epoch; None if its slot is damaged or was never synced."""
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
        # A random number: no leftover of an earlier epoch, even in a copy of the spool, has the same one.
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
    """The offset and the fields of each slot in use."""
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
    """Translate `OSError` from the block into the spool's errors."""
    try:
        yield
    except OSError as error:
        what = f"writing {path} failed: {error.strerror}"
        if error.errno in NO_ROOM:
            raise SpoolFull(f"the disk is full: {what}; free space on it", used_bytes=0, limit_bytes=None) from error
        raise SpoolUnavailable(f"{what}; check the disk of the spool directory") from error


def _erase(path: Path) -> None:
    """Overwrite and remove a file, if it exists."""
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
