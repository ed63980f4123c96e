"""Values as people write them, and back: sizes, durations, addresses; and what of them may be shown.

Pure functions that need the standard library alone, so that the commands that ask a running gateway load no validation.
"""

import base64
import ipaddress
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

# Sizes and durations as people write them, and back: pure functions of values.
#
# A size is a count of bytes: `67108864`, `64MiB`, `10 GB`, `1.5 GiB`. A duration is a number of seconds: `25`,
# `25s`, `5m`, `24h`, `7d`, `500ms`. Case does not matter. The `ValueError`s say what would be right.

KB = 1000
MB = 1000 * KB
GB = 1000 * MB
TB = 1000 * GB
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_SIZES = {
    "TiB": TIB,
    "TB": TB,
    "GiB": GIB,
    "GB": GB,
    "MiB": MIB,
    "MB": MB,
    "KiB": KIB,
    "KB": KB,
    "B": 1,
}
_DURATIONS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": 1.0, "ms": 0.001}

_NUMBER_AND_UNIT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")

_SIZE_ADVICE = "should be a size: plain bytes, or a number with KB, MB, GB, KiB, MiB or GiB, such as 64MiB"
_DURATION_ADVICE = "should be a duration: seconds, or a number with ms, s, m, h or d, such as 25s, 5m or 24h"


def parse_size(value: object) -> int:
    """The bytes that `value` (a number or a text) stands for; fractions of a byte are rounded away.

    Raises ValueError, with advice, for anything else.
    """
    scaled = _scaled(value, {unit.lower(): float(factor) for unit, factor in _SIZES.items()}, bare="b")
    if scaled is None:
        raise ValueError(_SIZE_ADVICE)
    return round(scaled)


def parse_duration(value: object) -> float:
    """The seconds that `value` (a number or a text) stands for.

    Raises ValueError, with advice, for anything else.
    """
    scaled = _scaled(value, _DURATIONS, bare="s")
    if scaled is None:
        raise ValueError(_DURATION_ADVICE)
    return scaled


def format_size(size: int) -> str:
    """The shortest exact way to write a size: `64MiB`, `500KB`, or plain bytes."""
    fitting = [
        f"{size // factor}{unit}" for unit, factor in _SIZES.items() if unit != "B" and size and size % factor == 0
    ]
    return min([*fitting, str(size)], key=len)


def format_duration(seconds: float) -> str:
    """A duration in the largest unit that leaves a whole number: `24h`, `5m`, `25s`, `500ms`; days from two on."""
    for unit, factor in _DURATIONS.items():
        count = seconds / factor
        if count >= (2 if unit == "d" else 1) and math.isclose(count, round(count), rel_tol=1e-9):
            return f"{round(count)}{unit}"
    return f"{seconds:g}s"


def _scaled(value: object, factors: dict[str, float], *, bare: str) -> float | None:
    """`value` times its unit's factor; None when it is no number, negative, or has an unknown unit."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value * factors[bare] if math.isfinite(value) and value >= 0 else None
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    factor = factors.get(match[2].lower() or bare) if match else None
    if match is None or factor is None:
        return None
    scaled = float(match[1].replace("_", "")) * factor
    return scaled if math.isfinite(scaled) else None


# Addresses: where to listen, and where an endpoint is. Pure checks whose errors say what would be right.

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")
_LISTEN_ADVICE = (
    "should be HOST:PORT, such as 127.0.0.1:7717, [::1]:7717, or 0.0.0.0:7717 for every interface, "
    "or a Unix socket: unix:/run/callspool/intake.sock"
)
_UNIX = "unix:"
_LONGEST_PATH = 107
"""Bytes of the path of a Unix socket (sun_path in unix(7))."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host and a port to listen at, or a Unix socket; port 0 takes any free one."""

    host: str
    port: int
    path: Path | None = None
    """The Unix socket, in place of host and port."""
    secure: bool = False
    """Whether it is to be asked by TLS, as somebody who asks said; what listens has settings for that."""

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.path is not None or is_loopback(self.host)


INTAKE_LISTEN = ListenAddress("127.0.0.1", 7717)
"""The default address of the intake."""
ADMIN_LISTEN = ListenAddress("127.0.0.1", 7718)
"""The default address of the admin listener."""
SPOOL_DIRECTORY = Path("callspool-data/spool")
"""The default directory of the spool."""


def parse_listen(value: object) -> ListenAddress:
    """The address that `HOST:PORT` or `unix:PATH` names. Raises ValueError, with advice, for anything else."""
    if isinstance(value, ListenAddress):
        return value
    if isinstance(value, str) and value.strip().startswith(_UNIX):
        path = value.strip().removeprefix(_UNIX)
        if not path or "\0" in path or len(path.encode()) > _LONGEST_PATH:
            raise ValueError(f"should be the path of a Unix socket, of at most {_LONGEST_PATH} bytes")
        return ListenAddress("", 0, Path(path))
    match = _LISTEN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65535:
        raise ValueError(_LISTEN_ADVICE)
    if match[1] is not None and not _is_ipv6(match[1]):
        raise ValueError(_LISTEN_ADVICE)
    return ListenAddress(match[1] or match[2], int(match[3]))


def parse_asked(value: object) -> ListenAddress:
    """An address to ask: as for listening, or `https://HOST:PORT`, for TLS. Raises ValueError as `parse_listen`."""
    if not isinstance(value, str):
        return parse_listen(value)
    address = parse_listen(value.removeprefix("https://").removeprefix("http://").rstrip("/"))
    return replace(address, secure=True) if value.startswith("https://") else address


def check_endpoint(value: str) -> str:
    """An endpoint's URL as it may be used: http or https, a host, no credentials, no fragment.

    Raises ValueError, with advice, for anything else.
    """
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("should be an http:// or https:// URL, such as https://host/dev/send-call-log")
    if parts.username is not None or parts.password is not None:
        raise ValueError("should not carry credentials: set the destination's token instead")
    if parts.fragment:
        raise ValueError("should not have a fragment (the part after #)")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("should not contain spaces or control characters")
    return value


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def crosses_network_in_clear(url: str | None) -> bool:
    """Whether requests to this URL leave the machine without TLS."""
    parts = urlsplit(url or "")
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _split(value: str) -> SplitResult | None:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


# Secrets, as files and variables hold them.

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
"""The variable that names where systemd puts the credentials of a service (systemd.exec(5))."""


def split_tokens(text: str) -> list[str]:
    """Tokens with blanks or line breaks between them; a line that begins with `#` is a comment."""
    return [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]


def is_key(text: str) -> bool:
    """Whether a text is a key of the spool: base64 of 32 bytes."""
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


# What of a setting may be shown: secrets never, addresses without what could be one.

MASK = "***"

_USER_INFORMATION = re.compile(r"//[^/?#]*@")
_QUERY_VALUE = re.compile(r"([?&;][^=&;#]*=)[^&;#]*")

SECRET_WORDS = ("token", "secret", "key", "password", "passwd", "sig", "signature", "code", "auth", "credential")
"""Parts of parameter names that announce a secret."""


def mask_address(address: str) -> str:
    """An address without credentials and without the values of its query; works on malformed ones too."""
    return _QUERY_VALUE.sub(rf"\1{MASK}", _USER_INFORMATION.sub(f"//{MASK}@", address))


def names_secret(parameter: str) -> bool:
    """Whether the name of a parameter announces a secret."""
    return any(word in parameter.lower() for word in SECRET_WORDS)
