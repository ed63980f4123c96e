"""Mending a copy of a write-ahead log: sums are made anew, so that SQLite reads on behind the damage.

A frame that was damaged comes along as it is. What is wrong in it shows where it is read: by the checksum of a payload
or a record, or as a malformed page.
"""

from pathlib import Path

from spool.log_frames import FRAME, HEADER, add_checksum, byte_order, frames, page_size_of

_SUMMED_HEADER = 24
_SUMMED_FRAME = 8


def write_mended_log(log: Path, to: Path) -> None:
    """Write `log` to `to`, as far as its frames follow each other, with right sums."""
    order = ""
    with log.open("rb") as source, to.open("wb") as target:
        header = source.read(HEADER.size)
        page_size = page_size_of(header) or 0
        order = byte_order(header)
        fields = HEADER.unpack(header)
        following = list(frames(log))
        salts = following[0].salts if following else fields[4:6]
        plain = HEADER.pack(*fields[:4], *salts, 0, 0)[:_SUMMED_HEADER]
        sums = add_checksum(plain, order, (0, 0))
        target.write(HEADER.pack(*fields[:4], *salts, *sums))
        for _ in following:
            frame = FRAME.unpack(source.read(FRAME.size))
            page = source.read(page_size)
            if len(page) < page_size:
                return
            sums = add_checksum(FRAME.pack(*frame)[:_SUMMED_FRAME], order, sums)
            sums = add_checksum(page, order, sums)
            target.write(FRAME.pack(*frame[:4], *sums) + page)
