"""From the settings of the SDK's outboxes to what watches them."""

from config.settings import WhispeySettings
from gateway.intake.ports import Clock
from gateway.outbox.rescue import RescueObserver
from gateway.outbox.taking import IntakeParts, SpoolTaker
from gateway.outbox.watch import OutboxWatch


def build_outboxes(
    whispey: WhispeySettings, intake: IntakeParts, observer: RescueObserver, clock: Clock
) -> OutboxWatch:
    """What watches the configured outboxes; it begins when it is started."""
    key = whispey.outbox_token.get_secret_value() if whispey.outbox_token else None
    paths = tuple(dict.fromkeys(path.absolute() for path in whispey.outbox))
    return OutboxWatch(paths, whispey.outbox_interval, SpoolTaker(intake, key), clock, observer)
