"""A clock that only the processes of a test go by (libfaketime); timers run on."""

from importlib.util import find_spec
from pathlib import Path


class FakeClock:
    """The wall clock of processes that were started with `environment`, in place of this machine's."""

    def __init__(self, folder: Path) -> None:
        spec = find_spec("libfaketime")
        assert spec is not None
        assert spec.origin is not None
        library = Path(spec.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
        self._file = folder / "clock"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set_ahead(0)

    def set_ahead(self, seconds: float) -> None:
        """Set it so far ahead of this machine's clock, at once."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+.3f}\n")
        draft.replace(self._file)
