"""docs/capacity.md: the sizing table is what `callspool size` works out."""

import math
import re

from config.values import GB, HOUR, MB
from gateway.cli.size import RATIO, sizing
from tests.project.repository import text

LINK = 50e6 / 8
HOURS = (1, 6, 24)


def test_the_sizing_table_is_computed() -> None:
    """14 MB a call, 50 Mbit/s, outages of 1, 6 and 24 hours."""
    rows = re.findall(r"^\| ([\d,]+) \| (.*) \|$", text("docs/capacity.md"), re.MULTILINE)
    assert len(rows) == 4
    for calls, shown in rows:
        rate = int(calls.replace(",", "")) / HOUR
        found = [sizing(rate, 14 * MB, hours * HOUR, LINK, RATIO) for hours in HOURS]
        drained = found[1].drained_in_seconds
        assert drained is not None
        cells = [f"{math.ceil(one.quota_bytes / GB):,} GB" for one in found]
        cells += [f"{found[1].wire_bytes_per_second * 8 / 1e6:.1f} Mbit/s", f"{math.ceil(drained / 60):,} min"]
        assert shown == " | ".join([*cells, f"{100 * found[1].machine_share:.1f} %"])
