"""A gateway of a command's own: new folder, free ports, one destination; for `callspool demo` and `callspool bench`."""

import socket
from pathlib import Path

from config.destinations import Destination
from config.settings import LogLevel, LogSettings, Settings, ShutdownSettings, SpoolSettings
from config.values import ListenAddress
from gateway.chaos.harness import GatewayUnderTest


class OwnGateway:
    """A gateway in `folder`; the process is started, killed and stopped through `process`."""

    def __init__(self, folder: Path, destination: Destination, *, max_bytes: int | None = None) -> None:
        self.intake, self.admin = free_address(), free_address()
        settings = Settings()
        changed: dict[str, object] = {
            "intake": settings.intake.model_copy(update={"listen": self.intake}),
            "admin": settings.admin.model_copy(update={"listen": self.admin}),
            "spool": SpoolSettings(dir=folder / "spool", max_bytes=max_bytes),
            "log": LogSettings(level=LogLevel.WARNING),
            "shutdown": ShutdownSettings(deadline=1.0, quiet=0.0),
            "destinations": (destination,),
        }
        self.url = f"http://{self.intake}/v1/calls"
        self.log = folder / "gateway.log"
        self.process = GatewayUnderTest(settings.model_copy(update=changed), f"http://{self.admin}", self.log)


def free_address() -> ListenAddress:
    """An address of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ListenAddress("127.0.0.1", int(probe.getsockname()[1]))
