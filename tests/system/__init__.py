"""Tests of the whole program: `callspool run` as a process, real sockets, a real spool, a real endpoint."""
