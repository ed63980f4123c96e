"""The types of settings: how a value is read from a file or a variable, and how it is shown."""

import os
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, SecretStr

from config.values import (
    MASK,
    ListenAddress,
    check_endpoint,
    format_duration,
    format_size,
    is_key,
    mask_address,
    parse_duration,
    parse_listen,
    parse_size,
    split_tokens,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Variable:
    """Names the environment variable of a setting, where it is not CALLSPOOL_<SECTION>_<FIELD>."""

    name: str


@dataclass(frozen=True, slots=True)
class Shown(Generic[T]):
    """How a value of this type is written for people."""

    format: Callable[[T], str]


class Table(BaseModel):
    """A table of settings: frozen, without unknown keys, each field documented by the text below it.

    Defaults are checked like given values, so that a rule between two fields holds when only one was given.
    """

    # Built as a part of `Settings` alone, and with the documentation left in the source: each start would pay for both.
    model_config = ConfigDict(
        defer_build=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
    )


def _or_none(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """Reads `none` and `off` as no value, so that a variable can undo what a file sets."""

    def read(value: object) -> T | None:
        """No value, or what the word stands for otherwise."""
        if value is None or (isinstance(value, str) and value.strip().lower() in ("none", "off")):
            return None
        return parse(value)

    return read


def _word(value: object) -> object:
    """The value, if it is not a text that people would have to quote."""
    if isinstance(value, str) and not (value.isascii() and value.isprintable() and value and " " not in value):
        raise ValueError("should be one or more visible ASCII characters, without blanks")
    return value


def _paths(value: object) -> object:
    """Takes a text as a variable has it, apart by colons, for a list of paths."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _user_ids(value: object) -> object:
    """Takes a text as a variable has it, separated by colons or commas, for a list of user ids."""
    return [part for part in re.split(r"[:,\s]+", value) if part] if isinstance(value, str) else value


def _format_user_ids(ids: tuple[int, ...]) -> str:
    return ":".join(map(str, ids)) or "none"


def _format_paths(paths: tuple[Path, ...]) -> str:
    return os.pathsep.join(map(format_path, paths)) or "none"


_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


def _names(value: object) -> object:
    """Host names from a list, or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError("should be a list of host names, without ports")
    names = [str(each).strip().lower() for each in given]
    names = [name for name in names if name and name != "none"]
    if not all(map(_HOST_NAME.fullmatch, names)):
        raise ValueError("should be a list of host names, without ports")
    return names


def _words(value: object) -> object:
    """Words from a list, or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError("should be a list of words")
    return [word for each in given if (word := str(each).strip()) and word != "none"]


def _day(value: object) -> object:
    """A day as people write it; anything else is left to be refused."""
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value.strip())
    except ValueError:
        raise ValueError("should be a day, such as 2026-01-31") from None


def _format_names(names: tuple[str, ...]) -> str:
    return ",".join(names) or "none"


def _proxies(value: object) -> object:
    """Addresses and networks from a list, or from a text with commas; `unix` stands for the Unix socket."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError(_PROXIES_ADVICE)
    words = [str(each).strip().lower() for each in given]
    words = [word for word in words if word not in {"", "none"}]
    try:
        return [word if word == "unix" else str(ip_network(word)) for word in words]
    except ValueError:
        raise ValueError(_PROXIES_ADVICE) from None


_PROXIES_ADVICE = "should be a list of addresses and networks, such as 10.0.0.7 or 10.0.0.0/24, or `unix`"


LEAST_TOKEN = 16
"""Characters of a token of the admin listener: 96 bits, if they are random."""


def _tokens(value: object) -> object:
    """Tokens from a list, or from a text that holds them."""
    if isinstance(value, str):
        value = split_tokens(value)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError("should be a token, or a list of tokens")
    if any(len(each) < LEAST_TOKEN or not each.isascii() or not each.isprintable() or " " in each for each in value):
        raise ValueError(
            f"should be tokens of at least {LEAST_TOKEN} visible ASCII characters, such as of `openssl rand -hex 32`"
        )
    return tuple(dict.fromkeys(value))


def _keys(value: object) -> object:
    """Keys of the spool from a list, or from a text that holds them."""
    words = split_tokens(value) if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(each, str) and is_key(each) for each in words):
        raise ValueError(
            "should be base64 of 32 bytes, such as of `openssl rand -base64 32`; older keys stand below it"
        )
    return tuple(words)


def _checked_token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("should be one or more visible ASCII characters, without blanks around them")
    return token


HeaderToken = Annotated[SecretStr, AfterValidator(_checked_token)]
"""A token that can stand in an HTTP header."""


def checked_key(key: SecretStr | None) -> SecretStr | None:
    """A key, if it is one."""
    if key is not None and not is_key(key.get_secret_value()):
        raise ValueError("should be base64 of 32 bytes, such as of `openssl rand -base64 32`")
    return key


def decoded_key(key: SecretStr | None) -> bytes | None:
    """Its bytes."""
    return None if key is None else b64decode(key.get_secret_value())


def format_tokens(tokens: tuple[SecretStr, ...]) -> str:
    """How many there are, masked."""
    return "none" if not tokens else MASK if len(tokens) == 1 else f"{MASK} ({len(tokens)} tokens)"


_OWNER = re.compile(r"[\w.-]*(:[\w.-]*)?")


def _owner(value: object) -> object:
    if not isinstance(value, str) or not _OWNER.fullmatch(value) or not value.strip(":"):
        raise ValueError("should be USER, USER:GROUP or :GROUP, names or numbers")
    return value


def _mode(value: object) -> object:
    """Takes octal digits for a mode, as chmod does."""
    if isinstance(value, str) and re.fullmatch(r"0?o?[0-7]{3}", value):
        return int(value.removeprefix("0o"), 8)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError('should be a mode in octal digits, such as "0660"')


def _lowered(value: object) -> object:
    """A text as enums write it; anything else is left to be refused."""
    return value.strip().lower() if isinstance(value, str) else value


def _endpoint(value: object) -> object:
    """A text that is a URL; anything else is left to be refused."""
    return check_endpoint(value) if isinstance(value, str) else value


def format_path(path: Path) -> str:
    """A path with `./` before it where it depends on the working directory."""
    return str(path) if path.is_absolute() or str(path).startswith(".") else f"./{path}"


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0), Shown(format_size)]
"""Bytes, at least one."""
OptionalSize = Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(_or_none(parse_size)), Shown(format_size)]
"""Bytes, or no limit."""
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0), Shown(format_duration)]
"""Seconds, more than none."""
Wait = Annotated[float, BeforeValidator(parse_duration), Field(ge=0), Shown(format_duration)]
"""Seconds, perhaps none at all."""
OptionalDuration = Annotated[
    Annotated[float, Field(gt=0)] | None, BeforeValidator(_or_none(parse_duration)), Shown(format_duration)
]
"""Seconds, or never."""
Listen = Annotated[ListenAddress, BeforeValidator(parse_listen), Shown(str)]
"""Where to listen."""
OptionalListen = Annotated[ListenAddress | None, BeforeValidator(_or_none(parse_listen)), Shown(str)]
"""Where to listen, or nowhere."""
SocketMode = Annotated[int, BeforeValidator(_mode), Field(ge=0, le=0o777), Shown(lambda mode: f"{mode:04o}")]
"""The mode of a Unix socket's file, in octal digits."""
Owner = Annotated[str | None, BeforeValidator(_or_none(_owner))]
"""`USER`, `USER:GROUP` or `:GROUP`."""
Endpoint = Annotated[str, BeforeValidator(_endpoint), Shown(mask_address)]
"""The URL of an endpoint."""
OptionalEndpoint = Annotated[str | None, BeforeValidator(_or_none(_endpoint)), Shown(mask_address)]
"""The URL of an endpoint, or none."""
Directory = Annotated[Path, Shown(format_path)]
"""A directory, made when it is needed."""
OptionalName = Annotated[str | None, BeforeValidator(_or_none(_word))]
"""A word of visible ASCII characters, or none."""
OptionalFile = Annotated[Path | None, BeforeValidator(_or_none(lambda value: value)), Shown(format_path)]
"""The path of a file that need not exist yet, or none."""
Files = Annotated[tuple[Path, ...], BeforeValidator(_paths), Shown(_format_paths)]
"""Paths of files that need not exist yet; in a variable apart by colons."""
UserIds = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_user_ids), Shown(_format_user_ids)]
"""Ids of users; in a variable separated by colons or commas."""
Names = Annotated[tuple[str, ...], BeforeValidator(_names), Shown(_format_names)]
"""Host names, separated by commas in a variable."""
Proxies = Annotated[tuple[str, ...], BeforeValidator(_proxies), Shown(_format_names)]
"""Addresses and networks, separated by commas in a variable."""
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys), Shown(format_tokens)]
Tokens = Annotated[tuple[SecretStr, ...], BeforeValidator(_tokens), Shown(format_tokens)]
"""Tokens of one role; several while clients change from one to the next."""
Words = Annotated[tuple[str, ...], BeforeValidator(_words), Shown(_format_names)]
"""Words, separated by commas in a variable."""
OptionalDate = Annotated[date | None, BeforeValidator(_or_none(_day)), Shown(str)]
"""A day, or none."""
Word = Annotated[str, BeforeValidator(_word)]
"""A word of visible ASCII characters."""
Choice = BeforeValidator(_lowered)
"""Beside a StrEnum: upper case and blanks around the word do not matter."""
