"""Reload: new settings for a gateway that runs, checked first, and applied whole or not at all."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from config.layers import InvalidConfiguration
from config.listeners import ListenerTable
from config.loader import Loaded
from config.settings import Settings
from gateway.operations.schemas import Reloaded

_log = structlog.get_logger("callspool")

Reread = Callable[[], Loaded]
"""Reads file, environment and the files of secrets again. Raises `InvalidConfiguration`."""

LOOK_SECONDS: Final = 1.0
"""How often files are looked at whose change reloads the settings."""

_Print = tuple[int, int, int, int] | None


class FileWatch:
    """Says when files have changed, whoever wrote them and by whatever means. `changed` blocks: for a thread.

    What a path leads to is compared, so that Kubernetes' way counts, too: it replaces a link to the folder of all. A
    file that is still being written is waited for: a change counts once nothing changed from one look to the next.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, _Print] = {}
        self._unsettled: dict[Path, _Print] | None = None

    def follow(self, files: Iterable[Path]) -> None:
        """Look at these files from now on; what was seen of those that were followed before stays."""
        self._seen = {path: self._seen[path] if path in self._seen else _print_of(path) for path in files}

    def changed(self) -> bool:
        """Whether there was a change since the last one that this said, and it has come to an end."""
        now = {path: _print_of(path) for path in self._seen}
        settled, self._unsettled = now == self._unsettled, now
        if now == self._seen or not settled:
            return False
        self._seen = now
        return True


def _print_of(path: Path) -> _Print:
    """What differs once a file is another one, or has other content; None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


_SECTIONS = ("audit", "log", "priority")
_SETTINGS = {
    "spool": ("dir",),
    "intake": tuple(ListenerTable.model_fields),
    "webhooks": tuple(ListenerTable.model_fields),
}
_ADMIN_TOKENS = {"token", "operate_token", "read_token"}
"""What a reload changes of the admin listener."""


def needs_restart(before: Settings, after: Settings) -> Iterator[str]:
    """The settings that differ and that only a restart applies: where it listens, what it locks, how it logs."""
    for section in _SECTIONS:
        if getattr(before, section) != getattr(after, section):
            yield section
    for section, names in _SETTINGS.items():
        one, other = getattr(before, section), getattr(after, section)
        yield from (f"{section}.{name}" for name in names if getattr(one, name) != getattr(other, name))
    for name in type(before.admin).model_fields:
        if name not in _ADMIN_TOKENS and getattr(before.admin, name) != getattr(after.admin, name):
            yield f"admin.{name}"


def read_again(reread: Reread, present: Settings) -> tuple[Loaded | None, Reloaded, tuple[Path, ...]]:
    """The settings as they are now, if they can be applied, what to say of them, and the files that they name.

    Reads files: for a thread.
    """
    files: tuple[Path, ...] = ()
    try:
        loaded = reread()
    except InvalidConfiguration as error:
        files = error.files
        result = Reloaded(applied=False, problems=tuple(map(str, error.problems)))
    except Exception as error:  # noqa: BLE001  # a defect that these settings meet must not end the look for others
        _log.error("unexpected error in reading the settings", exc_info=error)
        problem = f"they cannot be read: {type(error).__name__}; the log has the details"
        result = Reloaded(applied=False, problems=(problem,))
    else:
        files = loaded.files
        result = Reloaded(applied=True, needs_restart=tuple(needs_restart(present, loaded.settings)))
        if not result.needs_restart:
            _log.info("reloading")
            return loaded, result, files
        result = msgspec.structs.replace(result, applied=False)
    _log.error("reload_refused", problems=result.problems, needs_restart=result.needs_restart)
    return None, result, files
