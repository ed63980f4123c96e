"""What a reload applies, and what it leaves to a restart."""

from pathlib import Path

import pytest

from config.layers import InvalidConfiguration
from config.listeners import ListenerTable
from config.loader import Loaded, load, read_file
from gateway.runtime.reload import needs_restart, read_again

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


def test_a_defect_in_reading_settings_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    """The gateway goes on with those that it has, and reads the next ones."""

    def fails() -> Loaded:
        raise KeyError("a defect")

    loaded, result, _ = read_again(fails, load(None, {}, local=True).settings)
    assert loaded is None
    assert not result.applied
    assert result.problems == ("they cannot be read: KeyError; the log has the details",)
    assert "a defect" in capsys.readouterr().out


def test_a_file_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    """As any other that is no configuration."""
    file = tmp_path / "callspool.toml"
    file.write_text("x = " + "[" * 100_000)
    with pytest.raises(InvalidConfiguration, match="nested too deeply"):
        read_file(file)


def test_settings_that_are_refused_say_which_files_they_name(tmp_path: Path) -> None:
    """One that is missing may come a moment later."""
    file, secret = tmp_path / "callspool.toml", tmp_path / "token"
    file.write_text(f'[intake]\ntoken_file = "{secret}"\n')
    present = load(None, {}, local=True).settings
    loaded, _, files = read_again(lambda: load(file, {}, local=True), present)
    assert loaded is None
    assert set(files) == {file, secret}
