"""`callspool size`: the disk and the link that calls need through an outage. Arithmetic, with measured figures."""

import math
import re

import click
import msgspec

from config.values import GB, HOUR, KB, MB, format_size, parse_size
from gateway.cli import FiniteRange
from gateway.cli.client import Span
from gateway.cli.output import as_json, json_option, output, plain, print_json, table
from gateway.formatting import age_text, bytes_text

RATIO = 5.0
"""To which zstd level 1 compresses call logs with spans (docs/performance.md)."""
LOG_BYTES = 64 * MB
"""The write-ahead log and the headroom, which count in the quota."""
RESERVE = 20
"""One part in so many of the quota is left to cores."""
CORE_BYTES = 500 * KB
"""The largest core of a large call log, as it is kept."""
LARGE_PER_SECOND = 20.0
"""Call logs of 15 MB that two cores take a second, durable (docs/performance.md)."""
_PER = {"s": 1.0, "m": 60.0, "min": 60.0, "h": HOUR, "d": 24 * HOUR}
_RATE = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]+)?)\s*/\s*(s|m|min|h|d)\s*")


class Rate(click.ParamType[float]):
    """Calls over time as people write it, in calls a second."""

    name = "RATE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The calls a second that were typed; ends the command where they are none."""
        match = _RATE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.fail("should be a number of calls over s, min, h or d, such as 300/h", param, ctx)
        return float(match[1]) / _PER[match[2]]


class Link(click.ParamType[float]):
    """The bandwidth of a link, in bytes a second."""

    name = "BANDWIDTH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The bytes a second that were typed: bits with `Mbit`, else a size."""
        text = str(value).strip().lower().removesuffix("/s")
        try:
            if text.endswith(("kbit", "mbit", "gbit")):
                found = float(text[:-4]) * {"k": KB, "m": MB, "g": GB}[text[-4]] / 8
            else:
                found = float(parse_size(value if isinstance(value, int | float) else text))
        except ValueError:
            found = 0.0
        if not 0 < found < math.inf:  # False for NaN too
            self.fail("should be a bandwidth, such as 50Mbit or 5MB", param, ctx)
        return found


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed. Bytes, seconds, and what is asked of the machine."""

    calls_in_outage: int
    raw_bytes: int
    stored_bytes: int
    quota_bytes: int
    """For `spool.max_bytes`."""
    disk_bytes: int
    """Of the volume: a fifth stays free."""
    wire_bytes_per_second: float
    """That the calls themselves take of the link."""
    drained_in_seconds: float | None
    """After the outage, beside the calls that go on; None where the link is too slow for ever."""
    machine_share: float
    """Of what two cores accept."""


def sizing(calls_per_second: float, call_bytes: float, outage: float, link: float, ratio: float) -> Sizing:
    """What these calls need through an outage of so many seconds. Pure."""
    calls = math.ceil(calls_per_second * outage)
    stored = calls * (call_bytes / ratio + CORE_BYTES / ratio)
    quota = math.ceil((stored + LOG_BYTES) * RESERVE / (RESERVE - 1))
    on_wire = calls_per_second * call_bytes / ratio
    left = link - on_wire
    return Sizing(
        calls_in_outage=calls,
        raw_bytes=round(calls * call_bytes),
        stored_bytes=round(stored),
        quota_bytes=quota,
        disk_bytes=math.ceil(quota * 1.25),
        wire_bytes_per_second=on_wire,
        drained_in_seconds=stored / left if left > 0 else None,
        machine_share=calls_per_second * max(1.0, call_bytes / (15 * MB)) / LARGE_PER_SECOND,
    )


@click.command()
@click.option("--calls", type=Rate(), required=True, help="Calls over time, such as 300/h.")
@click.option("--mb", type=FiniteRange(0.001, 1e6), required=True, help="Size of a call log in MB, such as 14.")
@click.option("--outage", type=Span(), required=True, help="The longest outage to live through, such as 6h.")
@click.option("--link", type=Link(), default="50Mbit", show_default=True, help="Bandwidth to the destination.")
@click.option("--ratio", type=FiniteRange(1, 1000), default=RATIO, show_default=True, help="How well they compress.")
@json_option
def size(calls: float, mb: float, outage: float, link: float, ratio: float) -> None:
    """Work out the quota of the spool, the disk, and how long it takes to catch up after an outage."""
    found = sizing(calls, mb * MB, outage, link, ratio)
    if as_json():
        print_json(found)
        return
    shown = table("", "")
    shown.show_header = False
    quota = math.ceil(found.quota_bytes / GB)
    drained = "never: the link is too slow for the calls alone"
    if found.drained_in_seconds is not None:
        drained = f"{age_text(found.drained_in_seconds)}, beside the calls that go on"
    link_share = 100 * found.wire_bytes_per_second / link
    rows = (
        ("in an outage", f"{found.calls_in_outage:,} calls, {bytes_text(found.raw_bytes)} as posted"),
        ("in the spool", f"{bytes_text(found.stored_bytes)}, compressed {ratio:g} to 1, cores included"),
        ("quota", f"CALLSPOOL_SPOOL_MAX_BYTES={format_size(quota * GB)}"),
        ("volume", f"{bytes_text(math.ceil(quota * 1.25) * GB)}, so that a fifth stays free"),
        ("link", f"{bytes_text(round(found.wire_bytes_per_second))} a second, {link_share:.0f} % of it"),
        ("caught up in", drained),
        ("machine", f"{100 * found.machine_share:.1f} % of what two cores take"),
    )
    for name, value in rows:
        shown.add_row(plain(name, "bold"), plain(value))
    output().print(shown)
    output().print(plain("`callspool bench` measures this machine and volume.", "dim"))
