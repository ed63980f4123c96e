"""`python -m gateway.cli` is `callspool`."""

from gateway.cli import main

main(prog_name="callspool")
