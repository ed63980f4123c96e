"""File descriptors: each connection needs one, and so do the spool and each delivery."""

import resource

_KEPT_BACK = 256
"""For files, deliveries and the admin listener; of a very low limit, a quarter."""


def raise_limit() -> None:
    """Allow this process as many as it may allow itself: the usual soft limit of 1024 is there for old programs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_possible() -> int:
    """How many connections can be open besides everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - min(_KEPT_BACK, soft // 4)
