"""Writes the Grafana dashboards: one of a single gateway, one of a fleet of them.

`python -m deploy.dashboards` writes `deploy/grafana/`; a test holds what is committed against it, and every metric that
a panel shows against those that there are. Each panel says below its title what it means and when to worry.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "grafana"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, by PromQL, with the legend of each series."""

    title: str
    about: str
    series: tuple[tuple[str, str], ...]
    """Expression and legend, each."""
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stack: bool = False
    thresholds: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    """From which value on which colour, in a `stat`."""
    mappings: Mapping[str, str] | None = None
    """Words in place of values."""
    optional: bool = False
    """Whether it is empty where a part of callspool is not in use."""


@dataclass(frozen=True)
class Row:
    """Panels with a heading; a closed one is not asked for until somebody opens it."""

    title: str
    panels: tuple[Panel, ...]
    closed: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; each expression may name `$instance`."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    one_instance: bool


def _stat(title: str, about: str, expression: str, **more: Any) -> Panel:
    return Panel(title, about, ((expression, ""),), kind="stat", width=4, **more)


_ZERO_IS_GOOD: Final = ((None, "green"), (1.0, "red"))
_ONE_IS_GOOD: Final = ((None, "red"), (1.0, "green"))
_YES_NO: Final = {"0": "no", "1": "yes"}
_I: Final = '{instance=~"$instance"}'


def _rate(metric: str, by: str, **labels: str) -> str:
    return f"sum by ({by}) (rate({metric}{_labels(**labels)}[$__rate_interval]))"


def _labels(**labels: str) -> str:
    return "{" + ", ".join(['instance=~"$instance"', *(f"{name}{value}" for name, value in labels.items())]) + "}"


def _quantile(share: float, metric: str, by: str = "") -> str:
    names = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({names}) (rate({metric}_bucket{_I}[$__rate_interval])))"


GATEWAY: Final = Dashboard(
    "callspool-gateway",
    "callspool: one gateway",
    "Is it accepting, does it keep up, and if not, why?",
    (
        Row(
            "Now",
            (
                _stat(
                    "Accepts posts",
                    "As /readyz says. No: agents get 503 or 507.",
                    f"min(callspool_ready{_I})",
                    thresholds=_ONE_IS_GOOD,
                    mappings=_YES_NO,
                ),
                _stat(
                    "Queued", "Deliveries still to be made, to all destinations.", f"sum(callspool_backlog_records{_I})"
                ),
                _stat(
                    "Oldest waits",
                    "Age of the oldest call log that is still to be delivered.",
                    f"max(callspool_oldest_pending_seconds{_I})",
                    unit="s",
                    thresholds=((None, "green"), (300.0, "orange"), (3600.0, "red")),
                ),
                _stat(
                    "Dead letters",
                    "Set aside with a reason: callspool dead list.",
                    f"sum(callspool_dead_records{_I})",
                    thresholds=_ZERO_IS_GOOD,
                ),
                _stat(
                    "Spool",
                    "Of its quota. At 100 % posts are answered 507.",
                    f"max(callspool_spool_bytes{_I} / callspool_spool_limit_bytes{_I})",
                    unit="percentunit",
                    thresholds=((None, "green"), (0.8, "orange"), (0.95, "red")),
                ),
                _stat(
                    "Unaccounted",
                    "Owed, and nowhere. Must be 0, always: else keep the spool and report it.",
                    f"sum(callspool_unaccounted_records{_I})",
                    thresholds=_ZERO_IS_GOOD,
                ),
            ),
        ),
        Row(
            "Intake",
            (
                Panel(
                    "Posts",
                    "By result. What is not accepted stays with its agent.",
                    ((_rate("callspool_posts_total", "result"), "{{result}}"),),
                    "reqps",
                    stack=True,
                ),
                Panel(
                    "Time to a durable answer",
                    "From the headers of a post to the answer after the fsync.",
                    tuple((_quantile(share, "callspool_ack_seconds"), f"{share:.0%}") for share in (0.5, 0.95, 0.99)),
                    "s",
                ),
                Panel(
                    "Bytes accepted",
                    "Raw as decoded, stored as compressed in the spool.",
                    ((_rate("callspool_payload_bytes_total", "stage"), "{{stage}}"),),
                    "Bps",
                ),
                Panel(
                    "Memory for bodies",
                    "At the limit posts wait, then get 503.",
                    (
                        (f"sum(callspool_intake_memory_bytes{_I})", "in use"),
                        (f"sum(callspool_intake_memory_limit_bytes{_I})", "limit"),
                    ),
                    "bytes",
                ),
                Panel(
                    "Posts under way",
                    "Waiting means back-pressure: memory is used up.",
                    (
                        (f"sum(callspool_intake_posts_in_flight{_I})", "in flight"),
                        (f"sum(callspool_intake_posts_waiting{_I})", "waiting"),
                    ),
                ),
                Panel(
                    "Commits",
                    "Slow commits are a slow disk, and slow answers.",
                    (
                        (_quantile(0.5, "callspool_commit_seconds"), "50%"),
                        (_quantile(0.99, "callspool_commit_seconds"), "99%"),
                    ),
                    "s",
                ),
            ),
        ),
        Row(
            "Delivery",
            (
                Panel(
                    "Attempts",
                    "By outcome. retry and held repeat; dead does not.",
                    ((_rate("callspool_deliveries_total", "destination, outcome"), "{{destination}} {{outcome}}"),),
                    "reqps",
                    stack=True,
                ),
                Panel(
                    "Backlog",
                    "Deliveries still to be made; a line that rises does not keep up.",
                    ((f"sum by (destination, lane) (callspool_backlog_records{_I})", "{{destination}} {{lane}}"),),
                ),
                Panel(
                    "Backlog in bytes",
                    "Raw bytes still to be delivered.",
                    ((f"sum by (destination, lane) (callspool_backlog_bytes{_I})", "{{destination}} {{lane}}"),),
                    "bytes",
                ),
                Panel(
                    "Accepted to core delivered",
                    "How long a dashboard waits for a call.",
                    tuple(
                        (_quantile(share, "callspool_core_delivered_seconds"), f"{share:.0%}")
                        for share in (0.5, 0.95, 0.99)
                    ),
                    "s",
                ),
                Panel(
                    "Time of an attempt",
                    "95 % of the attempts take at most so long.",
                    ((_quantile(0.95, "callspool_delivery_seconds", "destination, lane"), "{{destination}} {{lane}}"),),
                    "s",
                ),
                Panel(
                    "Destinations that accept",
                    "0: callspool status says why, and when it is tried again.",
                    ((f"min by (destination) (callspool_destination_up{_I})", "{{destination}}"),),
                ),
                Panel(
                    "Oldest still to be delivered",
                    "By destination and lane.",
                    (
                        (
                            f"max by (destination, lane) (callspool_oldest_pending_seconds{_I})",
                            "{{destination}} {{lane}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Attempts allowed at once",
                    "Follows what the destination bears: falls after 429, 503 and slowness.",
                    ((f"min by (destination, lane) (callspool_concurrency{_I})", "{{destination}} {{lane}}"),),
                ),
                Panel(
                    "Set aside",
                    "Dead letters, deliveries that are held, and tokens that are refused.",
                    (
                        (f"sum by (destination) (callspool_dead_records{_I})", "{{destination}} dead"),
                        (f"sum by (destination) (callspool_held_records{_I})", "{{destination}} held"),
                        (f"sum by (destination) (callspool_refused_tokens{_I})", "{{destination}} tokens"),
                    ),
                ),
            ),
        ),
        Row(
            "Disk",
            (
                Panel(
                    "Spool",
                    "Log and staging count.",
                    ((f"sum(callspool_spool_bytes{_I})", "in use"), (f"sum(callspool_spool_limit_bytes{_I})", "quota")),
                    "bytes",
                ),
                Panel(
                    "Free on the disk",
                    "Others may fill it, too.",
                    ((f"min(callspool_disk_free_bytes{_I})", "free"),),
                    "bytes",
                ),
                Panel(
                    "In quarantine",
                    "Above 0: run callspool salvage.",
                    ((f"sum(callspool_quarantined_databases{_I})", "databases"),),
                ),
            ),
        ),
        Row(
            "Objects, stores, calls after they ended",
            (
                Panel(
                    "Objects",
                    "Bytes to buckets and through upload addresses.",
                    ((_rate("callspool_upload_bytes_total", "destination"), "{{destination}}"),),
                    "Bps",
                    optional=True,
                ),
                Panel(
                    "Parts stored",
                    "Of calls, by result; refused ones are dead letters.",
                    ((_rate("callspool_store_rows_total", "destination, result"), "{{destination}} {{result}}"),),
                    optional=True,
                ),
                Panel(
                    "Time of a transaction",
                    "Of a store, 95 %.",
                    ((_quantile(0.95, "callspool_store_commit_seconds", "destination"), "{{destination}}"),),
                    "s",
                    optional=True,
                ),
                Panel(
                    "Calls concluded",
                    "timed_out and orphan: their start or end did not come.",
                    ((_rate("callspool_completion_calls_total", "result"), "{{result}}"),),
                    optional=True,
                ),
                Panel(
                    "Calls that wait for the pipeline",
                    "And how long the oldest has waited.",
                    (
                        (f"sum(callspool_pipeline_queued_calls{_I})", "calls"),
                        (f"max(callspool_pipeline_oldest_queued_seconds{_I})", "seconds"),
                    ),
                    optional=True,
                ),
                Panel(
                    "Log lines lost",
                    "Nobody read the log, or the audit file could not be written.",
                    (
                        (_rate("callspool_log_messages_dropped_total", "instance"), "log"),
                        (_rate("callspool_audit_lines_dropped_total", "instance"), "audit"),
                    ),
                ),
            ),
            closed=True,
        ),
    ),
    one_instance=True,
)

FLEET: Final = Dashboard(
    "callspool-fleet",
    "callspool: fleet",
    "All gateways and workers: how many are in trouble, and which?",
    (
        Row(
            "Now",
            (
                _stat("Gateways", "That answered their last scrape.", f"count(callspool_ready{_I})"),
                _stat("Do not accept", "As /readyz says.", f"count(callspool_ready{_I} == 0) or vector(0)",
                      thresholds=_ZERO_IS_GOOD),
                _stat("Do not answer", "Scrapes that failed.", 'count(up{job="callspool"} == 0) or vector(0)',
                      thresholds=_ZERO_IS_GOOD),
                _stat("Queued", "Deliveries still to be made.", f"sum(callspool_backlog_records{_I})"),
                _stat("Dead letters", "Set aside with a reason.", f"sum(callspool_dead_records{_I})",
                      thresholds=_ZERO_IS_GOOD),
                _stat("Unaccounted", "Must be 0, always.", f"sum(callspool_unaccounted_records{_I})",
                      thresholds=_ZERO_IS_GOOD),
            ),
        ),
        Row(
            "Flow",
            (
                Panel("Posts", "By result, of all gateways.",
                      ((_rate("callspool_posts_total", "result"), "{{result}}"),), "reqps", stack=True),
                Panel("Attempts", "By destination and outcome.",
                      ((_rate("callspool_deliveries_total", "destination, outcome"), "{{destination}} {{outcome}}"),),
                      "reqps", stack=True),
                Panel("Accepted to core delivered", "How long dashboards wait for a call, of all gateways.",
                      tuple((_quantile(share, "callspool_core_delivered_seconds"), f"{share:.0%}")
                            for share in (0.5, 0.95, 0.99)), "s"),
                Panel("Backlog", "By destination: is it the destination, or one gateway?",
                      ((f"sum by (destination, lane) (callspool_backlog_records{_I})", "{{destination}} {{lane}}"),)),
                Panel("Gateways whose destination is down", "By destination. All at once: it is the destination.",
                      ((f"count by (destination) (callspool_destination_up{_I} == 0) or "
                        f"0 * count by (destination) (callspool_destination_up{_I})", "{{destination}}"),)),
                Panel("Versions", "During an upgrade both are here.",
                      ((f"count by (version) (callspool_build_info{_I})", "{{version}}"),), stack=True),
            ),
        ),
        Row(
            "The ten worst",
            (
                Panel("Largest backlog", "Deliveries still to be made.",
                      ((f"topk(10, sum by (instance) (callspool_backlog_records{_I}))", "{{instance}}"),)),
                Panel("Oldest waits", "Seconds since the oldest was accepted.",
                      ((f"topk(10, max by (instance) (callspool_oldest_pending_seconds{_I}))", "{{instance}}"),), "s"),
                Panel("Fullest spools", "Of their quota.",
                      ((f"topk(10, max by (instance) (callspool_spool_bytes{_I} / callspool_spool_limit_bytes{_I}))",
                        "{{instance}}"),), "percentunit"),
                Panel("Slowest answers", "99 % of the posts are durable within so long.",
                      ((f"topk(10, {_quantile(0.99, 'callspool_ack_seconds', 'instance')})", "{{instance}}"),), "s"),
                Panel("Most dead letters", "By gateway.",
                      ((f"topk(10, sum by (instance) (callspool_dead_records{_I}))", "{{instance}}"),)),
                Panel("Least free disk", "Where others fill it, too.",
                      ((f"bottomk(10, min by (instance) (callspool_disk_free_bytes{_I}))", "{{instance}}"),), "bytes"),
            ),
        ),
        Row(
            "Workers of Kafka",
            (
                Panel("Messages stored", "By what became of them.",
                      ((_rate("callspool_work_messages_total", "result"), "{{result}}"),), optional=True),
                Panel("Lag", "Messages that are not in the database yet.",
                      ((f"sum by (topic) (callspool_work_lag{_I})", "{{topic}}"),), optional=True),
                Panel("Workers that work", "Joined their group, and their store takes what they write.",
                      ((f"sum(callspool_work_up{_I})", "up"), (f"count(callspool_work_up{_I})", "there")),
                      optional=True),
            ),
            closed=True,
        ),
    ),
    one_instance=False,
)  # fmt: skip

DASHBOARDS: Final = {"gateway": GATEWAY, "fleet": FLEET}


def panels(dashboard: Dashboard) -> Iterator[Panel]:
    """All panels, row by row."""
    for row in dashboard.rows:
        yield from row.panels


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["callspool"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": list(_variables(dashboard))},
        "panels": list(_placed(dashboard.rows)),
    }


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    yield {
        "name": "instance",
        "label": "Gateway",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": 'label_values({__name__=~"callspool_(ready|work_up)"}, instance)', "refId": "instance"},
        "refresh": 2,
        "sort": 1,
        "multi": not dashboard.one_instance,
        "includeAll": not dashboard.one_instance,
        **({} if dashboard.one_instance else {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}),
    }


def _placed(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Rows and panels with their places, from left to right and from top to bottom."""
    number, top = 0, 0
    for row in rows:
        number += 1
        placed: list[dict[str, Any]] = []
        header = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.closed,
            "gridPos": _place(0, top, 24, 1),
        }
        top, left = top + 1, 0
        for panel in row.panels:
            height = 4 if panel.kind == "stat" else 8
            if left + panel.width > _WIDTH:
                left, top = 0, top + height
            number += 1
            placed.append(_panel(panel, number, _place(left, top, panel.width, height)))
            left += panel.width
        top += height
        yield {**header, "panels": placed if row.closed else []}
        if not row.closed:
            yield from placed


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal" if panel.stack else "none"}, "fillOpacity": 20 if panel.stack else 0}
    steps = [{"value": value, "color": colour} for value, colour in panel.thresholds]
    words = [{"type": "value", "options": {key: {"text": text} for key, text in (panel.mappings or {}).items()}}]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "mappings": words if panel.mappings else [],
                **({} if panel.kind == "stat" else {"custom": custom}),
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.series)
        ],
    }


def files() -> Iterator[tuple[Path, str]]:
    """Each file, with what is in it."""
    for name, dashboard in DASHBOARDS.items():
        yield FOLDER / f"{name}.json", json.dumps(document(dashboard), indent=1) + "\n"


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in files():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
