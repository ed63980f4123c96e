"""Circuit breakers for credentials: which tokens a destination refuses, and when each is probed. No I/O.

Deliveries of a refused token are held in the spool as they become due. When a probe is due, one of them is released
and sent; when it is accepted, all are. Other tokens are not affected. Times are milliseconds since the Unix epoch.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from spool.records import Delivery, DeliveryKey
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.policy import RetryPolicy, probe_seconds


@dataclass(slots=True)
class _Pause:
    reason: str
    retry_at: int | None
    """When the next probe is to be released; None while nothing is held: the next due delivery is the probe."""
    probes: int = 0
    probe: DeliveryKey | None = None


class CredentialBreaker:
    """The refused tokens of one destination; None stands for deliveries without a token."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._pauses: dict[int | None, _Pause] = {}

    @property
    def next_probe_at(self) -> int | None:
        """When the next probe is due; None when none is."""
        return min((p.retry_at for p in self._pauses.values() if p.retry_at is not None), default=None)

    @property
    def count(self) -> int:
        """How many tokens are refused, as far as a delivery needs them."""
        return sum(pause.retry_at is not None for pause in self._pauses.values())

    def probe_now(self, now: int, only: Collection[int | None] | None = None) -> bool:
        """Probe every refused token now, or some; False where no delivery needs one of them.

        What no delivery needs is forgotten: it is tried as if it had never been refused.
        """
        chosen = [token_id for token_id in self._pauses if only is None or token_id in only]
        waiting = [pause for token_id in chosen if (pause := self._pauses[token_id]).retry_at is not None]
        for pause in waiting:
            if pause.probe is None:
                pause.retry_at, pause.probes = now, 0
        for token_id in chosen:
            if self._pauses[token_id].retry_at is None:
                del self._pauses[token_id]
        return bool(waiting)

    def resume(self, token_id: int | None, now: int) -> None:
        """Deliveries of this token were held before this process began: probe it at once."""
        self._pauses.setdefault(token_id, _Pause("refused before the last restart", now))

    def hold_reason(self, delivery: Delivery, now: int) -> str | None:
        """Why this delivery is to be held rather than sent; None when it may be sent."""
        pause = self._pauses.get(delivery.record.token_id)
        if pause is None or pause.probe == delivery.key:
            return None
        if pause.retry_at is None and pause.probe is None:
            # The time holds should this delivery end in another way, for example by an operator's order.
            pause.probe, pause.retry_at = delivery.key, self._next_probe(pause, now)
            return None
        return pause.reason

    def take_due(self, now: int) -> tuple[int | None, ...]:
        """The tokens of which one held delivery is to be released now; each is named once a probe.

        Their time moves on at once: should that delivery end in another way, the next one has its turn.
        """
        longest = now + math.ceil(self._policy.probe_maximum * 1000)
        for pause in self._pauses.values():
            if pause.retry_at is not None:  # the clock may have been set back since
                pause.retry_at = min(pause.retry_at, longest)
        due = tuple(t for t, p in self._pauses.items() if p.retry_at is not None and p.retry_at <= now)
        for token_id in due:
            pause = self._pauses[token_id]
            pause.retry_at = self._next_probe(pause, now)
        return due

    def released(self, token_id: int | None, freed: tuple[Delivery, ...]) -> bool:
        """Remember the probe. True: nothing is held, so that no delivery needs this token any more.

        Then the next delivery with this token is the probe.
        """
        pause = self._pauses.get(token_id)
        if pause is None:
            return False
        pause.probe = freed[0].key if freed else None
        if freed:
            return False
        pause.retry_at = None
        return True

    def attempt_ended(self, delivery: Delivery, outcome: Outcome, now: int) -> bool | None:
        """Learn from an attempt: False when this token began to be refused, True when it ceased to be."""
        token_id = delivery.record.token_id
        pause = self._pauses.get(token_id)
        if isinstance(outcome, Refused) and outcome.scope is Scope.CREDENTIAL:
            return self._refused(token_id, delivery.key, outcome.reason, now)
        if pause is None or pause.probe != delivery.key:
            return None
        if _was_taken(outcome):
            del self._pauses[token_id]
            return True
        pause.probe, pause.retry_at = None, self._next_probe(pause, now)
        return None

    def _refused(self, token_id: int | None, key: DeliveryKey, reason: str, now: int) -> bool | None:
        pause = self._pauses.get(token_id)
        if pause is None:
            pause = self._pauses[token_id] = _Pause(reason, None)
            pause.retry_at = self._next_probe(pause, now)
            return False
        if pause.probe == key:
            pause.reason, pause.probe = reason, None
            pause.probes += 1
            pause.retry_at = self._next_probe(pause, now)
        return None

    def _next_probe(self, pause: _Pause, now: int) -> int:
        return now + math.ceil(probe_seconds(self._policy, pause.probes) * 1000)


def _was_taken(outcome: Outcome) -> bool:
    """Whether the destination looked past the token: it took the delivery, or spoke about the record itself."""
    if isinstance(outcome, RetryLater):
        return outcome.give_up_after_seconds is not None
    return isinstance(outcome, Delivered) or outcome.scope is Scope.RECORD
