"""The composition root: the only place, beside the command line, that reads the settings and constructs things."""

from config.settings import Settings
from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.runtime.build import build_service, now
from gateway.runtime.lifecycle import Listen, Service, StopRule, Watchers

# What a gateway is made of, as `gateway.runtime.lifecycle` starts and stops it.


class Assembly:
    """A gateway that is still to be built, from checked settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.admin = Listen(settings.admin.listen.host, settings.admin.listen.port)
        self.admin_token = settings.admin.token.get_secret_value() if settings.admin.token else None
        self.stop_rule = StopRule(settings.shutdown.deadline, settings.shutdown.quiet, settings.shutdown.call_max_age)
        self.clock = now
        self.watchers = Watchers(Metrics(), RecentEvents(now))

    async def build(self) -> Service:
        """Open the spool and wire everything to it; nothing listens or delivers yet.

        Raises `spool.errors.SpoolError`, and `OSError` where a file or directory cannot be used.
        """
        return await build_service(self._settings, self.watchers)


__all__ = ["Assembly"]
