"""TLS and SASL: who is let in writes and reads; who is not is told why, and what to change, and loses nothing."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from bench.kafka_servers import create_topics
from gateway.diagnostics.kafka import ask
from tests.kafka.clusters import PARTITIONS, Cluster
from tests.kafka.gate import Door, Gate
from tests.system.waiting import until
from tests.uploaders.deliveries import Payloads, a_delivery, a_record
from tests.worker.groups import PATIENCE, Group
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.kafka.options import KafkaOptions, Sasl
from uploaders.kafka.refusals import why_refused
from uploaders.kafka.uploader import KafkaUploader

PAST = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))
Validity = tuple[datetime | None, datetime | None]
"""From when, and until when; None as the library has it: now, and far off."""
NOW: Validity = (None, None)
USERS = {"sidecar": "hush"}
KNOWN: dict[str, object] = {"sasl": Sasl.SCRAM_SHA_512, "username": "sidecar", "password": "hush"}


@dataclass
class Papers:
    """Certificates of one authority and of a foreign one, as files and as contexts of servers."""

    folder: Path
    own: trustme.CA = field(default_factory=lambda: trustme.CA(key_type=trustme.KeyType.ECDSA))
    foreign: trustme.CA = field(default_factory=lambda: trustme.CA(key_type=trustme.KeyType.ECDSA))

    def __post_init__(self) -> None:
        self.own.cert_pem.write_to_path(self.folder / "own.pem")
        self.foreign.cert_pem.write_to_path(self.folder / "foreign.pem")

    def broker(self, name: str = "127.0.0.1", valid: Validity = NOW) -> ssl.SSLContext:
        """What a broker presents."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._issued(self.own, name, valid).configure_cert(context)
        return context

    def strict_broker(self) -> ssl.SSLContext:
        """One that wants certificates of its authority."""
        context = self.broker()
        self.own.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def trusting(self, authority: str = "own") -> dict[str, object]:
        """Settings of a client that trusts this authority."""
        return {"tls": True, "ca_file": self.folder / f"{authority}.pem"}

    def client(self, authority: str = "own", valid: Validity = NOW) -> dict[str, object]:
        """Settings of a client with a certificate of this authority."""
        issued = self._issued(getattr(self, authority), "sidecar", valid)
        certificate, key = self.folder / "client.pem", self.folder / "client.key"
        certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return {**self.trusting(), "certificate_file": certificate, "key_file": key}

    @staticmethod
    def _issued(authority: trustme.CA, name: str, valid: Validity) -> trustme.LeafCert:
        begin, end = valid
        return authority.issue_cert(name, key_type=trustme.KeyType.ECDSA, not_before=begin, not_after=end)


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="session")
def _gate() -> Iterator[Gate]:
    with Gate(Door()) as made:
        yield made


@pytest.fixture
def gate(_gate: Gate) -> Gate:
    """A broker whose door is open."""
    _gate.door = Door()
    return _gate


def behind(gate: Gate, **access: object) -> Cluster:
    """Fresh topics there, and the settings of a client. The door is open for as long as they are made."""
    made = Cluster(gate.brokers, access=access)
    door, gate.door = gate.door, Door()
    create_topics(gate.brokers, [*made.topics.read, made.topics.dead], PARTITIONS)
    gate.door = door
    gate.turn_out()
    return made


async def attempted(options: KafkaOptions) -> Outcome:
    payloads = Payloads()
    uploader = KafkaUploader(options, payloads)
    try:
        return await uploader.deliver(a_delivery(a_record(payloads)))
    finally:
        await uploader.close()


@pytest.mark.parametrize("sasl", [Sasl.PLAIN, Sasl.SCRAM_SHA_256, Sasl.SCRAM_SHA_512])
async def test_who_is_let_in_writes(gate: Gate, papers: Papers, sasl: Sasl) -> None:
    """By a password and a certificate at once; the probe of the settings finds the topics."""
    gate.door = Door(papers.strict_broker(), USERS)
    cluster = behind(gate, **papers.client(), **{**KNOWN, "sasl": sasl})
    assert await attempted(cluster.options) == Delivered()
    assert all(topic.exists for topic in await asyncio.to_thread(ask, cluster.options))


Refusal = tuple[Callable[[Papers], Door], Callable[[Papers], dict[str, object]], str]
REFUSALS: dict[str, Refusal] = {
    "wrong password": (
        lambda _: Door(users=USERS),
        lambda _: {**KNOWN, "password": "wrong"},
        "invalid credentials with SASL mechanism SCRAM-SHA-512; check `sasl`, `username` and `password`",
    ),
    "wrong password, plain": (
        lambda papers: Door(papers.broker(), USERS),
        lambda papers: {**papers.trusting(), **KNOWN, "sasl": Sasl.PLAIN, "password": "wrong"},
        "Authentication failed: Invalid username or password; check",
    ),
    "another mechanism": (
        lambda _: Door(users=USERS, mechanisms=("PLAIN",)),
        lambda _: KNOWN,
        "broker's supported mechanisms: PLAIN",
    ),
    "no password": (lambda _: Door(users=USERS), lambda _: {}, "it wants authentication, set `sasl`"),
    "no TLS": (lambda papers: Door(papers.broker()), lambda _: {}, "set `tls = true`"),
    "wrong authority": (
        lambda papers: Door(papers.broker()),
        lambda papers: papers.trusting("foreign"),
        "certificate is not trusted (unable to get local issuer certificate): check `ca_file`",
    ),
    "expired broker": (
        lambda papers: Door(papers.broker(valid=PAST)),
        lambda papers: papers.trusting(),
        "the broker's certificate has expired: renew it there",
    ),
    "another name": (
        lambda papers: Door(papers.broker("kafka.example")),
        lambda papers: papers.trusting(),
        "the broker's certificate is not one of 127.0.0.1",
    ),
    "no certificate": (
        lambda papers: Door(papers.strict_broker()),
        lambda papers: papers.trusting(),
        "it wants a certificate of the client: set `certificate_file` and `key_file`",
    ),
    "expired client": (
        lambda papers: Door(papers.strict_broker()),
        lambda papers: papers.client(valid=PAST),
        "the client's certificate has expired: renew the one in `certificate_file`",
    ),
    "unknown client": (
        lambda papers: Door(papers.strict_broker()),
        lambda papers: papers.client("foreign"),
        "it does not know the authority of the client's certificate",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_who_is_not_let_in_is_told_why(gate: Gate, papers: Papers, case: str) -> None:
    """A delivery is refused for its destination's sake, and long before its time-out; the probe of the settings says
    the same."""
    door, settings, said = REFUSALS[case]
    gate.door = door(papers)
    options = behind(gate, **settings(papers)).options
    outcome = await asyncio.wait_for(attempted(options), options.delivery_timeout / 2)
    assert isinstance(outcome, Refused), outcome
    assert outcome.scope is Scope.DESTINATION
    assert said in outcome.reason
    assert gate.brokers in outcome.reason
    with pytest.raises(ConnectionError) as failed:
        await asyncio.to_thread(ask, options)
    assert said in str(failed.value)


async def test_who_was_refused_is_let_in_later(gate: Gate) -> None:
    """By the same uploader: a delivery that was refused is written as soon as the broker knows the password."""
    gate.door = Door(users={"sidecar": "another"})
    payloads = Payloads()
    uploader = KafkaUploader(behind(gate, **KNOWN).options, payloads)
    delivery = a_delivery(a_record(payloads))
    assert isinstance(await uploader.deliver(delivery), Refused)
    gate.door = Door(users=USERS)
    assert await uploader.deliver(delivery) == Delivered()
    await uploader.close()


@pytest.mark.slow
async def test_a_worker_says_why_it_is_kept_out(gate: Gate, papers: Papers, capsys: pytest.CaptureFixture[str]) -> None:
    """In its figures, which become `/readyz`, and once in its log however often it tries; when the door opens, it reads
    all that was written meanwhile, and commits."""
    known, changed = Door(papers.strict_broker(), USERS), Door(papers.strict_broker(), {"sidecar": "changed"})
    cluster = behind(gate, **papers.client(), **KNOWN)
    gate.door = known
    group = Group(cluster)
    await group.produce(range(8))
    gate.door = changed
    gate.turn_out()
    async with group.worker() as consumer:

        async def refused() -> bool:
            return consumer.figures.refusal is not None

        await until(refused, "the worker is refused", deadline=PATIENCE)
        assert "check `sasl`, `username` and `password`" in str(consumer.figures.refusal)
        gate.door = known
        await group.has_written(8)
        assert consumer.figures.refusal is None
    assert await group.committed() == 8
    assert capsys.readouterr().out.count("kafka_refuses_this_worker") <= 1


def test_an_outage_is_no_refusal() -> None:
    """Nobody is told to change settings where a broker is down."""
    assert why_refused(KafkaOptions(("127.0.0.1:1", "localhost"))) is None


async def test_an_outage_is_described() -> None:
    """What is not confirmed in time is tried again later; the reason is what the last connection ended by."""
    outcome = await attempted(KafkaOptions(("127.0.0.1:1",), delivery_timeout=1.0))
    assert isinstance(outcome, RetryLater)
    assert "127.0.0.1:1: Connect to" in outcome.reason
    assert "refused" in outcome.reason


def test_files_that_hold_no_certificate_are_named(tmp_path: Path) -> None:
    """Before any broker is asked."""
    (tmp_path / "ca.pem").write_text("not PEM")
    found = why_refused(KafkaOptions(("127.0.0.1:1",), tls=True, ca_file=tmp_path / "ca.pem"))
    assert found is not None
    assert "`ca_file`, `certificate_file` and `key_file` cannot be used" in found
