"""Probes the HTTP endpoints, Kafka clusters and stores of a configuration and reports the results."""

import asyncio
import ssl
import time
import uuid
from dataclasses import replace

from config.destinations import HttpDestination, KafkaDestination, PipelineDestination
from config.destinations.stores import StoreTable
from config.settings import Settings
from gateway.cli.output import complain, result
from gateway.diagnostics.probe import ProbeResult, Verdict, probe
from gateway.intake.routes import via_pseudonym
from gateway.runtime.destinations import DriverMissing, require_kafka, store_of, transactional_store
from gateway.runtime.options import completion_rule, http_options, kafka_options
from spool.fsck import read_spool_id
from spool.records import system_clock
from uploaders.http.uploader import HttpOptions
from uploaders.stores.completion import CompletionRule
from uploaders.stores.store import StoreError

_SENTENCES = {
    Verdict.KNOWS_PHASE_2: "takes cores, and knows Phase 2",
    Verdict.DOUBTFUL: "takes cores and details, but takes the detail of a call that does not exist, too",
    Verdict.REFUSES_PHASE_2: "takes cores, but does not know Phase 2",
    Verdict.REFUSES_CORES: "did not take the core",
}
_OTHER_WAYS = 'set `large = "whole"` or `large = "presigned"` for this destination'
_HINTS = {
    Verdict.DOUBTFUL: f"Look whether the dashboard shows the test call once, with its detail; if not, {_OTHER_WAYS}.",
    Verdict.REFUSES_PHASE_2: f"So that large call logs arrive, {_OTHER_WAYS}.",
    Verdict.REFUSES_CORES: "Check the URL and the token; `--probe-token FILE` gives one where the agents bring theirs.",
}
_GOOD = frozenset({Verdict.KNOWS_PHASE_2, Verdict.DOUBTFUL})


def probe_all(settings: Settings, *, token: str | None, agent_id: str) -> bool:
    """Probe each HTTP destination, cluster and store; whether all of them would take what they are sent.

    What is sent has the mark of this spool, so that its own gateway, if the address leads there, accepts nothing.
    """
    endpoints = [each for each in settings.destinations if isinstance(each, HttpDestination)]
    clusters = [each for each in settings.destinations if isinstance(each, KafkaDestination)]
    stores = [each for each in settings.destinations if isinstance(each, StoreTable)]
    pipelines = [each for each in settings.destinations if isinstance(each, PipelineDestination)]
    if not endpoints and not clusters and not stores:
        complain("There is no HTTP or Kafka destination, and no store, to probe.", style="yellow")
    spool_id = read_spool_id(settings.spool.dir)
    via = None if spool_id is None else via_pseudonym(spool_id)
    accepted = [_probe_one(each, token, agent_id, via) for each in endpoints]
    accepted += [_probe_store(each, completion_rule(settings.completion)) for each in stores]
    accepted += [_probe_pipeline(each, settings) for each in pipelines]
    return all([*accepted, *map(_probe_cluster, clusters)])


def _passed(name: str, sentence: str) -> None:
    result({"destination": name, "passed": True, "found": sentence}, sentence)


def _probe_cluster(destination: KafkaDestination) -> bool:
    """Whether its topics are there and may be written; what should be looked at is said, too."""
    try:
        require_kafka(destination.name)
        from gateway.diagnostics.kafka import ask, findings  # noqa: PLC0415  # an extra

        found = list(findings(ask(kafka_options(destination)), destination.max_message_bytes))
    except (DriverMissing, ConnectionError) as error:
        complain(f"{destination.name}: {error}")
        return False
    for finding in found:
        complain(f"{destination.name}: {finding.text}", style="red" if finding.is_problem else "yellow")
    sound = not any(finding.is_problem for finding in found)
    if sound:
        _passed(destination.name, f"{destination.name} has its topics, and takes messages of this size")
    return sound


def _probe_store(destination: StoreTable, rule: CompletionRule) -> bool:
    """Whether its user has all rights that a gateway needs; no call is written."""

    async def asked() -> tuple[str, ...]:
        store = store_of(destination, rule, system_clock)
        try:
            return await store.missing_rights()
        finally:
            await store.close()

    try:
        missing = asyncio.run(asked())
    except StoreError as error:
        complain(f"{destination.name}: {error}.")
        return False
    if missing:
        complain(f"{destination.name}: its user lacks rights. Let the owner of the database run:")
        for statement in missing:
            complain(f"  {statement};", style="")
        return False
    _passed(destination.name, f"{destination.name} can be written to ({destination.target})")
    return True


def _probe_pipeline(destination: PipelineDestination, settings: Settings) -> bool:
    """Whether its embedding model answers, with vectors of the right length; it is asked for one."""
    from gateway.admin.metrics import Metrics  # noqa: PLC0415  # only a pipeline needs them
    from gateway.runtime.pipeline import pipeline_of, store_settings  # noqa: PLC0415  # as above
    from uploaders.pipeline.models import ModelError  # noqa: PLC0415  # as above

    async def asked() -> str:
        chosen = store_settings(destination, settings.destinations)
        store = transactional_store(chosen, completion_rule(settings.completion), system_clock)
        pipeline = pipeline_of(settings, destination, store, "probe", Metrics(), system_clock, works=False)
        try:
            return await pipeline.probe()
        finally:
            await pipeline.stop(0.0)
            await store.close()

    try:
        found = asyncio.run(asked())
    except (ModelError, StoreError, DriverMissing) as error:
        complain(f"{destination.name}: {error}.")
        return False
    _passed(destination.name, f"{destination.name} has its models: {found}")
    return True


def _probe_one(destination: HttpDestination, token: str | None, agent_id: str, via: str | None) -> bool:
    call_id = f"callspool-probe-{uuid.uuid4().hex[:12]}"
    try:
        found = asyncio.run(
            probe(
                replace(_options(destination, token), via=via), agent_id=agent_id, call_id=call_id, clock=_milliseconds
            )
        )
    except (OSError, ssl.SSLError) as error:
        complain(f"{destination.name}: {destination.ca_file} cannot be used: {error}")
        return False
    _tell(destination.name, found)
    return found.verdict in _GOOD


def _tell(name: str, found: ProbeResult) -> None:
    reason = f": {found.reason}" if found.reason else ""
    sentence = f"{name} {_SENTENCES[found.verdict]}{reason} (test call {found.call_id})"
    if found.verdict is Verdict.KNOWS_PHASE_2:
        _passed(name, sentence)
    else:
        complain(sentence, hint=_HINTS[found.verdict], style="yellow" if found.verdict in _GOOD else "red")


def _options(destination: HttpDestination, token: str | None) -> HttpOptions:
    """As the gateway would reach it; where it forwards the agents' tokens, the given one stands for these."""
    options = http_options(destination)
    return options if options.token is not None else replace(options, token=token)


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
