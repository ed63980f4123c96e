"""Commands for the developer's first hour and the operator's night."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from gateway.cli import Exit
from gateway.cli.size import sizing
from gateway.cli.status import troubles
from gateway.cli.watch import Following, Sample, overview
from gateway.diagnostics.machine import Health, about_address, about_clock, about_commits
from gateway.operations.schemas import DestinationReport, LaneStatus, SpoolReport, Status
from gateway.trace import newest_of
from spool.records import DeliveryState, Form
from spool.stats import SpoolStats
from tests.admin.admin_app import NOW, AdminFigures, traced, traced_delivery
from tests.cli.conftest import Cli, Server, rows


def test_tail_has_a_line_for_each_thing_that_happens(cli: Cli, server: Server) -> None:
    """Accepted, then core and detail with the ms that they took; as JSON the same."""
    record = traced(
        traced_delivery(Form.CORE, DeliveryState.DELIVERED, settled_at=NOW),
        traced_delivery(Form.DETAIL, DeliveryState.DELIVERED, settled_at=NOW + 7_000),
    )
    address = server.serve(AdminFigures(calls={"call-1": (record,)}).app)
    shown = rows(cli("tail", "--no-follow", "--admin", address).stdout)
    assert shown[0].endswith("call-1 accepted call_ended, 12.0 MB")
    assert shown[1].endswith("call-1 core sent after 5,000 ms")
    assert shown[2].endswith("call-1 detail sent after 12 s")
    told = [json.loads(line) for line in cli("tail", "--no-follow", "--json", "--admin", address).stdout.splitlines()]
    assert [(one["what"], one["milliseconds"]) for one in told] == [
        ("accepted", None),
        ("core sent", 5_000),
        ("detail sent", 12_000),
    ]


def test_tail_tells_each_thing_once() -> None:
    """A record is looked at again until it has ended, and nothing of it is told twice."""
    following = Following()
    core = traced_delivery(Form.CORE, DeliveryState.DELIVERED, settled_at=NOW)
    waits = newest_of((traced(core, traced_delivery(Form.DETAIL, DeliveryState.READY)),)).records
    ended = newest_of((traced(core, traced_delivery(Form.DETAIL, DeliveryState.DELIVERED, settled_at=NOW)),)).records
    assert [one.what for one in following.see(waits)] == ["accepted", "core sent"]
    assert (following.after, list(following.see(waits))) == (waits[0].number - 1, [])
    assert [one.what for one in following.see(ended)] == ["detail sent"]
    assert (following.after, list(following.see(ended))) == (waits[0].number, [])


def test_top_knows_when_the_backlog_is_drained() -> None:
    """Rates between two looks; a backlog that does not shrink is never drained, and the spool fills."""
    falls = overview(Sample(0, status(10, 5_000_000, 100)), Sample(10, status(5, 2_500_000, 105, used=3_000_000)))
    lane = falls.lanes[0]
    assert (lane.delivered_per_second, lane.bytes_per_second, lane.drained_in_seconds) == (0.5, 250_000, 10.0)
    assert falls.full_in_seconds == pytest.approx((10_000_000 - 3_000_000) / 200_000)
    grows = overview(Sample(0, status(5, 1, 100)), Sample(10, status(10, 2, 100)))
    assert grows.lanes[0].drained_in_seconds is None
    assert grows.full_in_seconds is None


def test_top_fits_80_columns(cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The overview is for a terminal of any size; without one it is printed once."""
    monkeypatch.setattr("gateway.cli.output._PIPED_WIDTH", 80)
    address = server.serve(AdminFigures().app)
    shown = cli("top", "--count", "2", "--interval", "0.2", "--admin", address).stdout
    assert "accepting, not keeping up: endpoint" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.endswith("\n")
    assert rows(cli("top", "--count", "1", "--admin", address).stdout)[0] == "accepting"


def test_top_has_rates_however_seldom_it_looks(cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks are enough, also where more time than the window is between them."""
    monkeypatch.setattr("gateway.cli.watch.WINDOW_SECONDS", 0.1)
    shown = cli("top", "--count", "2", "--interval", "0.2", "--admin", server.serve(AdminFigures().app)).stdout
    assert "accepting, not keeping up: endpoint" in shown


def test_the_status_and_a_call_fit_80_columns(cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word is cut: state and reason have a line, and the figures of the lanes stand below it."""
    monkeypatch.setattr("gateway.cli.output._PIPED_WIDTH", 80)
    error = "HTTP 503 Service Unavailable: upstream connect error or disconnect/reset before headers"
    record = traced(traced_delivery(Form.DETAIL, DeliveryState.READY, error=error))
    address = server.serve(AdminFigures(calls={"call-1": (record,)}).app)
    shown = rows(cli("status", "--admin", address).stdout)
    assert "endpoint down for 1 min: 503 Service Unavailable; next try in 30 s" in shown
    assert "core 10 5.0 KB 1 min 1 / 8 1 0 100" in shown
    assert "gone not configured" in shown
    call = rows(cli("show", "call-1", "--admin", address).stdout)
    assert "detail to endpoint ready 3" in call
    assert "HTTP 503 Service Unavailable: upstream connect error or" in call


def test_drain_waits_until_nothing_is_queued(cli: Cli, server: Server) -> None:
    """0 once the queue is empty; 1 with what is left when the time is over; an unknown destination is wrong usage."""
    calm = AdminFigures(destinations=(), stats=SpoolStats(10, 10**10, {}, {}, 0, None))
    assert cli("drain", "--admin", server.serve(calm.app)).exit_code == Exit.OK
    busy = server.serve(AdminFigures().app)
    late = cli("drain", "--timeout", "0s", "--admin", busy)
    assert (late.exit_code, "53 deliveries (480 MB)." in late.stderr) == (Exit.FAILED, True)
    assert cli("drain", "--destination", "nowhere", "--admin", busy).exit_code == Exit.USAGE


def test_size_works_out_quota_and_catching_up(cli: Cli) -> None:
    """300 calls of 14 MB an hour through 6 h; a link that the calls alone fill is never caught up."""
    found = sizing(300 / 3600, 14e6, 6 * 3600, 50e6 / 8, 5)
    assert (found.calls_in_outage, found.raw_bytes) == (1800, 25_200_000_000)
    assert found.stored_bytes < found.quota_bytes < found.disk_bytes < 8e9
    assert found.drained_in_seconds == pytest.approx(5.22e9 / (6.25e6 - 14e6 * 300 / 3600 / 5))
    assert sizing(1, 14e6, 60, 1e6, 5).drained_in_seconds is None
    assert "CALLSPOOL_SPOOL_MAX_BYTES=6GB" in cli("size", "--calls", "300/h", "--mb", "14", "--outage", "6h").stdout
    assert cli("size", "--calls", "many", "--mb", "14", "--outage", "6h").exit_code == Exit.USAGE


@pytest.mark.parametrize(
    "arguments",
    [
        *(("size", "--calls", "3/h", "--outage", "6h", *more) for more in (
            ("--mb", "nan"), ("--mb", "inf"), ("--mb", "14", "--ratio", "nan"), ("--mb", "14", "--link", "0Mbit"),
            ("--mb", "14", "--link", "nanMbit"), ("--mb", "14", "--link", "infMbit"),
        )),
        ("size", "--calls", f"{'9' * 400}/s", "--outage", "6h", "--mb", "14"),
        ("bench", "--seconds", "nan"),
        ("chaos", "--seconds", "nan"),
        ("top", "--interval", "nan"),
        ("top", "--interval", "1e300"),
        ("tail", "--interval", "inf"),
        ("status", "--watch", "--interval", "nan"),
        ("resume", "endpoint", "--wait", "nan"),
        ("backfill", "run", "--rows-per-second", "nan"),
        ("compare", "--days", "99999999999"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_of_no_use_is_wrong_usage(cli: Cli, arguments: tuple[str, ...]) -> None:
    """No bound excludes `nan`, and nothing can be computed with it: the command says so before it begins."""
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert "Invalid value" in result.stderr


def test_doctor_says_what_is_bad_and_what_to_do(cli: Cli, tmp_path: Path) -> None:
    """An endpoint that nobody answers at is bad, with its runbook; the rest is looked at all the same."""
    environment = {
        "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/",
        "CALLSPOOL_SPOOL_DIR": str(tmp_path / "new" / "spool"),
    }
    told = cli("doctor", "--json", "--admin", "127.0.0.1:9", env=environment)
    report = json.loads(told.stdout)
    found = {each["what"]: each for each in report["findings"]}
    assert (told.exit_code, report["good"], found["endpoint"]["health"]) == (Exit.FAILED, False, "bad")
    assert {"settings", "spool directory", "disk", "commit latency", "open files", "gateway"} <= found.keys()
    assert not (tmp_path / "new").exists()
    assert "1 thing is bad: begin with endpoint." in cli("doctor", "--admin", "127.0.0.1:9", env=environment).stdout


def test_a_directory_that_cannot_be_looked_into_is_a_finding(cli: Cli, tmp_path: Path) -> None:
    """Whatever the reason is, such as another user's directory, the doctor ends with advice, and no traceback."""
    environment = {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/x", "CALLSPOOL_SPOOL_DIR": str(tmp_path / ("x" * 300))}
    told = cli("doctor", "--json", "--admin", "127.0.0.1:9", env=environment)
    findings = {each["what"]: each for each in json.loads(told.stdout)["findings"]}
    assert told.exit_code == Exit.FAILED
    assert "cannot be looked into: File name too long" in findings["spool directory"]["found"]
    status = cli("status", env={**environment, "CALLSPOOL_ADMIN_LISTEN": "127.0.0.1:9"})
    assert "No gateway answers at 127.0.0.1:9: Connection refused." in status.stderr


@pytest.mark.parametrize("command", [("doctor", "--json", "--admin", "127.0.0.1:9"), ("bench", "--json")], ids=" ".join)
def test_a_disk_that_takes_nothing_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    """It is when a disk is full that somebody asks the doctor."""
    environment = {
        **os.environ,
        "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/",
        "CALLSPOOL_SPOOL_DIR": f"{tmp_path}/spool",
    }
    shell = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, "-m", "gateway", *command]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (Exit.FAILED, False), done.stderr
    if command[0] == "doctor":
        found = {each["what"]: each for each in json.loads(done.stdout)["findings"]}["commit latency"]
        assert found["health"] == "bad"
        assert found["found"] == f"nothing can be written to {tmp_path}: File too large"
    else:
        assert "The measurement failed: [Errno 27] File too large." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["bench", "chaos"])
def test_a_folder_that_cannot_be_made_is_named(cli: Cli, tmp_path: Path, command: str) -> None:
    """Both work in a folder of their own beside the spool."""
    (tmp_path / "file").touch()
    environment = {
        "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/", "CALLSPOOL_SPOOL_DIR": str(tmp_path / "file" / "x" / "spool")
    }  # fmt: skip
    result = cli(command, env=environment)
    assert result.exit_code == Exit.FAILED
    assert f"{tmp_path / 'file' / 'x'} cannot be written to: Not a directory." in result.stderr


def test_a_host_that_can_be_none_is_a_finding() -> None:
    """A label of a name has at most 63 letters: the doctor says so, and goes on."""
    finding, reached = about_address("endpoint", f"http://{'a' * 64}.example/")
    assert (finding.health, reached) == (Health.BAD, None)


def test_what_the_doctor_measures_is_judged() -> None:
    """Slow commits and a wrong clock are told from good ones."""
    healths = [about_commits(median, worst).health for median, worst in ((1, 5), (20, 50), (1, 500), (200, 300))]
    assert healths == [Health.GOOD, Health.DOUBTFUL, Health.DOUBTFUL, Health.BAD]
    now = 1_767_225_600.0
    assert about_clock([], now) is None
    for date, health in (
        ("Thu, 01 Jan 2026 00:00:01 GMT", Health.GOOD),
        ("Thu, 01 Jan 2026 00:05:00 GMT", Health.DOUBTFUL),
    ):
        finding = about_clock([date], now)
        assert finding is not None
        assert finding.health is health


def test_a_report_holds_no_secret_and_no_call(cli: Cli, server: Server, tmp_path: Path) -> None:
    """Settings with masks, the status without events; what is missing is named."""
    file, environment = (
        tmp_path / "report.tar.gz",
        {
            "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/",
            "CALLSPOOL_ENDPOINT_TOKEN": "hush-hush-hush",
            "CALLSPOOL_SPOOL_DIR": str(tmp_path / "spool"),
        },
    )
    made = cli("report", "--output", str(file), "--admin", server.serve(AdminFigures().app), env=environment)
    assert made.exit_code == Exit.OK
    with tarfile.open(file) as bundle:
        held = {Path(one.name).name: (bundle.extractfile(one) or file.open("rb")).read() for one in bundle}
    assert held.keys() == {"versions.json", "settings.txt", "doctor.json", "status.json", "metrics.txt"}
    assert json.loads(held["status.json"])["events"] == []
    assert b"endpoint.token = ***" in held["settings.txt"].replace(b"destinations[endpoint]", b"endpoint")
    assert not any(b"hush" in data for data in held.values())
    gone = cli("report", "--output", str(file), "--admin", "127.0.0.1:9", "--json", env=environment)
    assert json.loads(gone.stdout)["missing"] == ["status.json", "metrics.txt"]
    other = server.serve(web.Application())
    strange = cli("report", "--output", str(file), "--admin", other, env=environment)
    assert f"metrics.txt was left out: The server at {other} is not a callspool gateway (HTTP 404)." in strange.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(cli: Cli, shell: str) -> None:
    """It asks the command itself what there is."""
    assert "_CALLSPOOL_COMPLETE" in cli("completion", shell).stdout


@pytest.mark.prove
def test_the_demo_loses_nothing(cli: Cli) -> None:
    """Three calls, a kill, a start: all of them arrive, and nothing is left in the temporary folder."""
    assert json.loads(cli("demo", "--json").stdout) == {"posted": 3, "arrived": 3, "lost": 0}


@pytest.mark.prove
def test_bench_measures_and_cleans_up(cli: Cli, tmp_path: Path) -> None:
    """Figures for three sizes; the folder beside the spool is gone."""
    (tmp_path / "callspool.toml").write_text(f'[spool]\ndir = "{tmp_path / "spool"}"\n')
    found = json.loads(cli("bench", "--seconds", "3", "--json", "--config", str(tmp_path / "callspool.toml")).stdout)
    assert all(load["posts"] > 0 and load["refused"] == 0 for load in found["loads"])
    assert [path.name for path in tmp_path.iterdir()] == ["callspool.toml"]


@pytest.mark.prove
def test_a_bench_whose_gateway_ends_says_so(tmp_path: Path) -> None:
    """One sentence in place of a traceback, and the folder is gone as well."""
    environment = {**os.environ, "CALLSPOOL_SPOOL_DIR": str(tmp_path / "spool")}
    command = [sys.executable, "-m", "gateway", "bench", "--seconds", "60"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as bench:
        owner = 0
        while not owner and bench.poll() is None:
            owner = next((int(lock.read_text() or 0) for lock in tmp_path.glob("*/spool/spool.lock")), 0)
        stored = 0
        while stored < 2_000_000:  # some posts
            assert bench.poll() is None
            with suppress(FileNotFoundError):
                stored = sum(path.stat().st_size for path in tmp_path.glob("*/spool/spool.db-wal"))
        os.kill(owner, signal.SIGKILL)
        _, told = bench.communicate(timeout=60)
    assert (bench.returncode, told.startswith("The measurement failed: ")) == (Exit.FAILED, True), told
    assert list(tmp_path.iterdir()) == []


def status(queued: int, queued_bytes: int, delivered: int, *, used: int = 1_000_000) -> Status:
    """A gateway with one lane."""
    lane = LaneStatus(
        lane="core", ready=queued, waiting=0, held=0, queued=queued, queued_bytes=queued_bytes, in_flight=0,
        concurrency=8, dead=0, delivered=delivered, expired=0, discarded=0, oldest_seconds=None,
    )  # fmt: skip
    destination = DestinationReport(
        name="endpoint", type="http", configured=True, up=True, reason="", breaker="closed", since=None,
        refused_tokens=0, retry_at=None, dead=0, lanes=(lane,),
    )  # fmt: skip
    spool = SpoolReport(
        used_bytes=used, limit_bytes=10_000_000, reserve_bytes=0, full_of_details=False, unaccounted=0, failure=None
    )
    return Status(
        version="0", now="", phase="running", ready=True, reasons=(), attention=(), spool=spool,
        drain_throttle=None, destinations=(destination,), outboxes=(), events=(),
    )  # fmt: skip


def test_a_spool_that_refuses_large_call_logs_needs_attention() -> None:
    """`status --check` says so although the gateway is ready."""
    calm = status(0, 0, 1)
    assert calm.spool is not None
    full = msgspec.structs.replace(calm, spool=msgspec.structs.replace(calm.spool, full_of_details=True))
    assert [str(each) for each in troubles(calm)] == []
    (told,) = troubles(full)
    assert str(told) == "large call logs are refused: the spool is full  (docs/runbooks.md#the-spool-is-full)"
    refusing = msgspec.structs.replace(full, ready=False, reasons=("the spool is full: 9 MB of 9 MB",))
    (told,) = troubles(refusing)
    assert told.text == "not ready: the spool is full: 9 MB of 9 MB"
