"""`callspool dead export`: dead letters with what they carry, into a folder that needs no callspool to be read."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import click
import msgspec

from config.addresses import ListenAddress
from gateway.cli.admin_client import NoGateway, Refused, admin_option, ask, download
from gateway.cli.asking import explained
from gateway.cli.exits import Exit
from gateway.cli.ordering import count_of, require_selection
from gateway.cli.output import complain, output, plain
from gateway.cli.progress_bar import progress_bar
from gateway.cli.selecting import entries, select_by, selecting
from gateway.humane import bytes_text, count_text
from gateway.orders.documents import DeliveryEntry, OrderName, OrderRequest, Select
from gateway.orders.exported import DOCUMENTS, FORMAT, INDEX, Header, Letter
from spool.figures import HELD_WITH_DEAD
from spool.records import Form
from uploaders.durable_file import DurableFile, make_directories
from uploaders.safe_names import safe_name

_encode = msgspec.json.Encoder().encode


@click.command(short_help="Write dead letters into a folder.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@selecting
@click.option("--all", "everything", is_flag=True, help="Mean all of them, where nothing selects some.")
@admin_option
def export(address: ListenAddress, directory: Path, *, everything: bool, **selection: Any) -> None:
    """Write dead letters and what they carry into DIRECTORY: an index, and a .json.zst for each document.

    What is held with a dead core (its detail, its notice) comes along. All of it stays here, too. Agents' keys are not
    among it.
    """
    selects = select_by(("dead",), **selection)
    require_selection(selects, everything=everything)
    with explained():
        try:
            written, unread, size = _Export(address, directory.absolute()).run(selects)
        except OSError as error:
            complain(f"{directory} cannot be written: {error.strerror or error}.")
            raise SystemExit(Exit.FAILED) from None
    output().print(plain(f"Wrote {count_text(written)} deliveries, {bytes_text(size)}, into {directory}.", "green"))
    if unread:
        complain(f"{count_text(unread)} documents could not be read; the index says why.", style="yellow")


class _Export:
    """One export; what it wrote before it broke off is written again by the next one."""

    def __init__(self, address: ListenAddress, directory: Path) -> None:
        self._address = address
        self._directory = directory

    def run(self, selects: Sequence[Select]) -> tuple[int, int, int]:
        """How many letters were written, how many of their documents could not be read, and how large the rest is."""
        make_directories(self._directory / DOCUMENTS)
        index = DurableFile(self._directory, self._directory / INDEX)
        written = unread = size = 0
        try:
            index.open()
            exported_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            index.write(_line(Header(format=FORMAT, exported_at=exported_at, callspool=version("callspool"))))
            for letter in self._letters(selects):
                index.write(_line(letter))
                written += 1
                unread += letter.file is None
                size += letter.file_bytes
            index.commit()
        finally:
            index.discard()
        return written, unread, size

    def _letters(self, selects: Sequence[Select]) -> Iterator[Letter]:
        """Each letter once its document is on the disk; the pages are read as they are needed."""
        found = chain.from_iterable(entries(self._address, select) for select in selects)
        requests = [OrderRequest(select=select) for select in selects]
        total, _ = count_of(self._address, OrderName.REPLAY, requests)
        with progress_bar() as tell:
            for done, entry in enumerate(found, 1):
                yield self._letter(entry)
                for follower in self._held_with(entry):
                    yield self._letter(follower)
                tell("export", done, max(done, total))

    def _held_with(self, entry: DeliveryEntry) -> Iterator[DeliveryEntry]:
        """The detail and the notice of a dead core: a discard takes them along, and so must an export before it."""
        if entry.form == Form.CORE:
            held = Select(states=("held",), target=entry.record_id, destination=entry.destination)
            yield from (one for one in entries(self._address, held) if one.reason == HELD_WITH_DEAD)

    def _letter(self, entry: DeliveryEntry) -> Letter:
        name = f"{safe_name(entry.record_id)}.{entry.form}.json.zst"
        try:
            digest, size = self._write_document(entry, self._directory / DOCUMENTS / name)
        except (Refused, NoGateway) as error:
            # A document that turns out to be damaged breaks the answer off, and the gateway goes on.
            ask(self._address, "healthz")
            return _described(entry, None, None, 0, str(error))
        return _described(entry, f"{DOCUMENTS}/{name}", digest, size, None)

    def _write_document(self, entry: DeliveryEntry, path: Path) -> tuple[str, int]:
        """The document as the spool has it, compressed; its SHA-256 and its size."""
        file, digest, size = DurableFile(self._directory, path), sha256(), 0
        key = entry.key.split("/", 2)
        try:
            file.open()
            for block in download(self._address, "api", "documents", *key, headers={"Accept-Encoding": "zstd"}):
                file.write(block)
                digest.update(block)
                size += len(block)
            file.commit()
        finally:
            file.discard()
        return digest.hexdigest(), size


def _described(entry: DeliveryEntry, file: str | None, digest: str | None, size: int, problem: str | None) -> Letter:
    return Letter(
        record_id=entry.record_id,
        call_id=entry.call_id,
        agent_id=entry.agent_id,
        event=entry.event,
        environment=entry.environment,
        destination=entry.destination,
        form=entry.form,
        state=entry.state,
        reason=entry.reason,
        attempts=entry.attempts,
        accepted_at=entry.accepted_at,
        since=entry.since,
        idempotency_key=entry.idempotency_key,
        file=file,
        sha256=digest,
        file_bytes=size,
        problem=problem,
    )


def _line(document: msgspec.Struct) -> bytes:
    return _encode(document) + b"\n"
