"""Credentials of a request: the intake's own token, and the agent's key that destinations may be sent.

The SDK has one header for a key, `x-pype-token`. Where the intake has a token of its own and the header equals
it, the header is the intake's credential and never leaves this process; only a `token` in the body is then the
agent's key. An agent that has both sends the intake's token as a bearer, and its key in the header.
"""

import hmac

from aiohttp import web

from gateway.intake.refusals import Refusal

HEADER = "x-pype-token"
_LONGEST = 8190
"""What a header can carry at most towards common servers."""


class IntakeToken:
    """The token that agents must present; with None every request is let in."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token is not None else None

    def check(self, request: web.BaseRequest) -> None:
        """Return if the request may come in; raises `Refusal` (401) otherwise."""
        if self._token is None or self._equals(request.headers.get(HEADER)):
            return
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._equals(bearer.strip()):
            return
        raise Refusal(
            401,
            "unauthorized",
            "The intake's token is missing or wrong.",
            f"Send the token of this gateway's configuration as {HEADER} or as Authorization: Bearer.",
        )

    def agents_key(self, request: web.BaseRequest) -> str | None:
        """The agent's own key from the header, if it is one and not the intake's token."""
        return self.foreign(request.headers.get(HEADER))

    def foreign(self, key: str | None) -> str | None:
        """The key, if a header can carry it and it is not the intake's own token."""
        return None if key is None or self._equals(key) else usable(key)

    def _equals(self, presented: str | None) -> bool:
        if self._token is None or presented is None:
            return False
        return hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._token)


def usable(key: str | None) -> str | None:
    """The key, if a header can carry it: not empty, not too long, printable."""
    if not key or len(key) > _LONGEST or not key.isprintable():
        return None
    return key
