"""Destinations as a configuration has them, with what they need and what a test says."""

from config.destinations import HttpDestination, S3Destination

URL = "https://host/dev/send-call-log"


def http_destination(**settings: object) -> HttpDestination:
    return HttpDestination.model_validate({"name": "a", "type": "http", "url": URL, **settings})


def s3_destination(**settings: object) -> S3Destination:
    return S3Destination.model_validate({"name": "s3", "type": "s3", "bucket": "calls", **settings})
