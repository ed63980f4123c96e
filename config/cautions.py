"""What is allowed but should be looked at: pure advice about checked settings."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from config.addresses import is_loopback
from config.destinations import Destination, HttpDestination, PresignedDestination, S3Destination
from config.masking import names_secret
from config.settings import Settings


def cautions(settings: Settings) -> tuple[str, ...]:
    """One sentence for each thing that an operator should know before the start."""
    return tuple(_of_listeners(settings)) + tuple(
        sentence for destination in settings.destinations for sentence in _of_destination(destination, settings)
    )


def _of_listeners(settings: Settings) -> Iterator[str]:
    if not settings.intake.listen.loopback and settings.intake.token is None:
        yield (
            f"intake.listen = {settings.intake.listen} can be reached from other machines, "
            "and without intake.token it takes posts from anyone"
        )


def _of_destination(destination: Destination, settings: Settings) -> Iterator[str]:
    if isinstance(destination, HttpDestination | PresignedDestination):
        yield from _of_endpoint(destination)
        yield from _of_uploads(destination)
        if isinstance(destination, HttpDestination):
            yield from _of_requests(destination, settings)
    elif isinstance(destination, S3Destination):
        yield from _of_bucket(destination)


def _of_bucket(destination: S3Destination) -> Iterator[str]:
    parts = urlsplit(destination.endpoint_url or "")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield (
            f"destinations[{destination.name}].endpoint_url is not https: "
            "call logs cross the network readable by anyone on the way"
        )


def _of_endpoint(destination: HttpDestination | PresignedDestination) -> Iterator[str]:
    key = f"destinations[{destination.name}]"
    parts = urlsplit(destination.url)
    secret = next((name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if names_secret(name)), None)
    if secret is not None:
        yield f"{key}.url seems to carry a secret in its query ({secret}); servers write queries into their logs"
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield f"{key}.url is not https: tokens and call logs cross the network readable by anyone on the way"


def _of_uploads(destination: HttpDestination | PresignedDestination) -> Iterator[str]:
    """The answer of an address that is asked for in clear may name any place to upload to."""
    parts = urlsplit(destination.presigned.address_url or "")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield (
            f"destinations[{destination.name}].presigned.address_url is not https: tokens cross the network readable "
            "by anyone on the way, who could also say where call logs are uploaded to"
        )


def _of_requests(destination: HttpDestination, settings: Settings) -> Iterator[str]:
    if destination.max_request_bytes < settings.split.core_max_bytes:
        yield (
            f"destinations[{destination.name}].max_request_bytes is less than split.core_max_bytes: "
            "a core may be too large to be delivered"
        )
