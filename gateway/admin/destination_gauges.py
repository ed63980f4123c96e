"""The gauges about destinations and about live calls, read from memory when they are asked for."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily

from gateway.courtesy import CourtesyFigures
from gateway.logs import redact_text
from uploaders.uploader import BreakerState, DestinationStatus


def of_destinations(destinations: Iterable[DestinationStatus]) -> Iterator[GaugeMetricFamily]:
    """Whether each configured destination takes deliveries, and how many at once."""
    up, state, trouble, tokens, slots = _families()
    for each in destinations:
        if not each.configured:
            continue
        up.add_metric((each.name,), float(each.up))
        tokens.add_metric((each.name,), each.refused_tokens)
        for known in BreakerState:
            state.add_metric((each.name, known.value), float(each.breaker is known))
        if each.since is not None:
            trouble.add_metric((each.name, short_reason(each.reason)), each.since / 1000)
        for lane, count in each.slots.items():
            slots.add_metric((each.name, lane.value), count)
    yield from (up, state, trouble, tokens, slots)


def of_courtesy(figures: CourtesyFigures | None) -> Iterator[GaugeMetricFamily]:
    """How many calls are live, and whether details are held back for them."""
    live, slowed = _live_calls(), _details_slowed()
    if figures is not None:
        live.add_metric((), figures.live_calls)
        slowed.add_metric((), float(figures.slowed))
    yield from (live, slowed)


def short_reason(reason: str) -> str:
    """A reason fit to be a label: of an answer only its status, since each one may have another body."""
    status, _, _ = redact_text(reason).partition(": ")
    return status if status.startswith("HTTP ") else redact_text(reason)


def _families() -> tuple[GaugeMetricFamily, ...]:
    """Those of destinations, without values."""
    return (
        _gauge("destination_up", "1 while the destination takes deliveries, else 0.", "destination"),
        _gauge("breaker_state", "1 for the state of the destination's circuit breaker.", "destination", "state"),
        _gauge(
            "breaker_open_since_seconds",
            "When the circuit breaker opened (Unix time), by reason; missing while it is closed.",
            "destination",
            "reason",
        ),
        _gauge("refused_tokens", "Tokens of agents that the destination refuses.", "destination"),
        _gauge(
            "concurrency", "Attempts that may be under way at once, as the destination bears.", "destination", "lane"
        ),
    )


def _live_calls() -> GaugeMetricFamily:
    """See its meaning."""
    return _gauge("live_calls", "Calls that began and have not ended.")


def _details_slowed() -> GaugeMetricFamily:
    """See its meaning."""
    return _gauge("details_slowed", "1 while details are held to a slower rate because a call is live, else 0.")


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    """One of ours."""
    return GaugeMetricFamily(f"callspool_{name}", meaning, labels=labels)
