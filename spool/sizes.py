"""How much room the database and its log take, as of the last commit."""

from pathlib import Path

from spool.database import PAGE_SIZE, log_of
from spool.transaction import Transaction

RESTART = "; nothing is taken until callspool is started again"


class Sizes:
    """Measured by the writer's thread after each commit; for any thread to read. In bytes."""

    def __init__(self, path: Path) -> None:
        self.used_bytes = 0
        """Pages in use, times their size."""
        self.log_bytes = 0
        """The size of the write-ahead log's file."""
        self.unmoved_bytes = 0
        """How much the database's file has to grow to take over what lies in the log."""
        self._path = path
        self._log_path = log_of(path)
        self._inodes: tuple[int, int] | None = None
        """Which files the connection writes to: another one of the same name is nobody's."""

    def closed(self) -> None:
        """The connection is closed; the next one may make files."""
        self._inodes = None

    def replaced(self, transaction: Transaction) -> str | None:
        """Why the files are not those any more that the open connection writes to, if so."""
        return None if self._inodes is None else self.measure(transaction)

    def measure(self, transaction: Transaction) -> str | None:
        """Look again; returns why what was just committed cannot be relied on, if so."""
        try:
            log, database = self._log_path.stat(), self._path.stat()
        except FileNotFoundError as missing:
            return f"{missing.filename} was removed while it was in use{RESTART}"
        except OSError as error:
            return f"the size of the spool cannot be read: {error}"
        inodes = (log.st_ino, database.st_ino)
        if inodes != (self._inodes or inodes):
            return f"{self._path} or its log was replaced while it was in use{RESTART}"
        self._inodes = inodes
        self.log_bytes = log.st_size
        self.unmoved_bytes = max(0, transaction.pages * PAGE_SIZE - database.st_size)
        self.used_bytes = (transaction.pages - transaction.free_pages) * PAGE_SIZE
        return None
