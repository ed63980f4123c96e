"""Reload: new settings for a gateway that runs, checked first, and applied whole or not at all."""

from collections.abc import Callable, Iterator

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


def read_again(reread: Reread, present: Settings) -> tuple[Loaded | None, Reloaded]:
    """The settings as they are now, if they can be applied, and what to say of them. Reads files: for a thread."""
    try:
        loaded = reread()
    except InvalidConfiguration as error:
        result = Reloaded(applied=False, problems=tuple(map(str, error.problems)))
    else:
        result = Reloaded(applied=True, needs_restart=tuple(needs_restart(present, loaded.settings)))
        if not result.needs_restart:
            _log.info("reloading")
            return loaded, result
        result = msgspec.structs.replace(result, applied=False)
    _log.error("reload_refused", problems=result.problems, needs_restart=result.needs_restart)
    return None, result
