"""What all listeners have: an address, a Unix socket's owner and mode, TLS."""

from pathlib import Path

from pydantic import ValidationInfo, field_validator

from config.types import OptionalFile, OptionalListen, Owner, SocketMode, Table


class ListenerTable(Table):
    """The settings of a listener."""

    listen: OptionalListen = None
    """Where to listen; None: nowhere."""
    socket_mode: SocketMode = 0o600
    """With a Unix socket: the mode of its file."""
    socket_owner: Owner = None
    """With a Unix socket: whom its file belongs to, as `USER`, `USER:GROUP` or `:GROUP`."""
    tls_cert_file: OptionalFile = None
    """PEM file with the certificate, and those between it and its authority; it turns TLS on, and is reloaded."""
    tls_key_file: OptionalFile = None
    """PEM file with the key; by default it stands in `tls_cert_file`."""
    tls_client_ca_file: OptionalFile = None
    """PEM file with authorities: every client must present a certificate of one (mutual TLS)."""

    @field_validator("tls_cert_file")
    @classmethod
    def _a_unix_socket_has_no_tls(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        listen = info.data.get("listen")
        if path is not None and listen is not None and listen.path is not None:
            raise ValueError("should not be given with a Unix socket, whose mode and owner say who may connect")
        return path

    @field_validator("tls_key_file", "tls_client_ca_file")
    @classmethod
    def _tls_needs_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and "tls_cert_file" in info.data and info.data["tls_cert_file"] is None:
            raise ValueError("needs `tls_cert_file`")
        return path
