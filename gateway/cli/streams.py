"""Standard streams: always open, and never the end of a command for a character that they cannot show."""

import io
import os
import sys


def secure_standard_streams() -> None:
    """Open /dev/null for those that are closed, and escape what an encoding has no character for.

    A file that is opened later would get the number of a closed stream: the spool's database that of standard error.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # as Python's own
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
