"""What of a setting may be shown: secrets never, addresses without what could be one."""

import re

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
