"""From the settings of a bucket to the options of its uploader and its place in the plan of deliveries."""

from types import MappingProxyType

from config.s3_destination import Encryption, S3Destination
from gateway.routing import DestinationRoute, RouteKind
from uploaders.s3.options import Content, ObjectEncoding, S3Options, ServerSideEncryption

ENCRYPTION = MappingProxyType(
    {
        Encryption.AES256: ServerSideEncryption.AES256,
        Encryption.KMS: ServerSideEncryption.KMS,
        Encryption.NONE: ServerSideEncryption.NONE,
    }
)


def s3_options(destination: S3Destination) -> S3Options:
    """How to deliver to a bucket."""
    return S3Options(
        bucket=destination.bucket,
        prefix=destination.prefix,
        key=destination.key,
        endpoint_url=destination.endpoint_url,
        region=destination.region,
        profile=destination.profile,
        path_style=destination.path_style,
        encryption=ENCRYPTION[destination.encryption],
        kms_key_id=destination.kms_key_id,
        storage_class=destination.storage_class,
        content=Content(destination.object),
        token_in_whole=destination.token_in_whole,
        encoding=ObjectEncoding(destination.encoding),
        part_bytes=destination.part_size,
        parts_at_once=destination.parts_at_once,
        if_none_match=destination.if_none_match,
        checksums=destination.checksums,
        ca_file=destination.ca_file,
        connect_timeout=destination.connect_timeout,
        read_timeout=destination.read_timeout,
        request_timeout=destination.request_timeout,
    )


def s3_route(destination: S3Destination) -> DestinationRoute:
    """What planning the deliveries of a record must know of a bucket; it keeps tokens only where objects hold them."""
    return DestinationRoute(
        destination.name,
        RouteKind.BUCKET,
        notifies=destination.notify,
        forwards_token=destination.token_in_whole,
    )
