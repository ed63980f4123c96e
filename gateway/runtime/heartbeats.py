"""From the settings of live calls to what watches them."""

from config.open_calls import LiveSettings
from gateway.admin.metrics import Metrics
from gateway.heartbeats.source import HeartbeatSource
from gateway.heartbeats.watch import HeartbeatWatch
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.intake.routes import IntakeToken
from gateway.intake.staging import Workers
from spool.records import system_clock
from spool.store import Spool


def heartbeat_source(
    settings: LiveSettings,
    spool: Spool,
    reader: BodyReader,
    acceptor: Acceptor,
    workers: Workers,
    token: IntakeToken,
    metrics: Metrics,
) -> HeartbeatSource:
    """What answers heartbeats and turns, and watches the calls that are live from before."""
    watch = HeartbeatWatch(spool.live, acceptor, reader, settings.lost_after, spool.token, metrics, system_clock)
    return HeartbeatSource(reader, workers, watch, acceptor, token, serves=settings.enabled)
