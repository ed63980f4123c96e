"""What a reload applies, and what it leaves to a restart."""

import pytest

from config.listeners import ListenerTable
from config.loader import load
from gateway.runtime.reload import needs_restart

CHANGED = {
    "listen": "127.0.0.1:0",
    "socket_mode": "0640",
    "socket_owner": "nobody",
    "tls_cert_file": "other.pem",
    "tls_key_file": "other.key",
    "tls_client_ca_file": "other-ca.pem",
}


@pytest.mark.parametrize("section", ["intake", "admin", "webhooks"])
@pytest.mark.parametrize("name", ListenerTable.model_fields)
def test_where_and_how_a_listener_listens_needs_a_restart(section: str, name: str) -> None:
    """A reload keeps sockets and certificates: it says so, and applies nothing."""
    before = {f"CALLSPOOL_{section}_TLS_CERT_FILE".upper(): "server.pem"}
    after = {**before, f"CALLSPOOL_{section}_{name}".upper(): CHANGED[name]}
    one, other = (load(None, environment, local=True).settings for environment in (before, after))
    assert list(needs_restart(one, other)) == [f"{section}.{name}"]
