"""The composition root: the only place, beside the command line, that reads the settings and constructs things."""

from gateway.assembly.gateway import Assembly

__all__ = ["Assembly"]
