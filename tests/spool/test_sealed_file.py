"""Files that only their process can read: what is read back is what was written, and nothing of it stands there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from spool.errors import SpoolUnavailable
from spool.payload import sealed_file
from spool.payload.sealed_file import BLOCK_BYTES, SealedFile

WORDS = b"whispered-4929000000006 "
SIZES = (3, BLOCK_BYTES, 2 * BLOCK_BYTES + 7, 1)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def filled(descriptor: int) -> tuple[SealedFile, bytes]:
    file, whole = SealedFile(descriptor), b""
    for size in SIZES:
        piece = (WORDS * (size // len(WORDS) + 1))[:size]
        file.write(memoryview(piece))
        whole += piece
    return file, whole


def test_what_was_written_is_read_back_once(descriptor: int, target: int) -> None:
    """In pieces of any size; the file is empty then, and takes nothing more."""
    file, whole = filled(descriptor)
    assert os.fstat(descriptor).st_size == len(whole)
    assert b"whispered" not in os.pread(descriptor, len(whole), 0)
    file.open_into(target)
    assert os.pread(target, len(whole) + 1, 0) == whole
    assert os.fstat(descriptor).st_size == 0
    with pytest.raises(ValueError, match="nothing can be added"):
        file.write(b"more")


def test_no_file_has_the_key_of_another_and_no_nonce_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same nonce under the same key, two blocks would give each other away."""
    used = []

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, about: bytes | None) -> bytes:
            used.append((self._key, nonce))
            return self._cipher.encrypt(nonce, data, about)

    monkeypatch.setattr(sealed_file, "cipher", Watched)
    for name in ("a", "b"):
        descriptor = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
        filled(descriptor)
        os.close(descriptor)
    assert len({key for key, _ in used}) == 2
    assert len(set(used)) == len(used) > 8


@pytest.mark.parametrize("change", ["a bit", "two blocks", "the end"])
def test_a_change_is_noticed(descriptor: int, target: int, change: str) -> None:
    """Whoever can write to the file can neither change, exchange nor leave out any of it."""
    file, whole = filled(descriptor)
    first, block = SIZES[0], BLOCK_BYTES
    if change == "a bit":
        (byte,) = os.pread(descriptor, 1, first + 5)
        os.pwrite(descriptor, bytes([byte ^ 1]), first + 5)
    elif change == "two blocks":
        one, other = os.pread(descriptor, block, first), os.pread(descriptor, block, first + block)
        os.pwrite(descriptor, other + one, first)
    else:
        os.ftruncate(descriptor, len(whole) - SIZES[-1])
    with pytest.raises(SpoolUnavailable, match="changed by somebody else"):
        file.open_into(target)
