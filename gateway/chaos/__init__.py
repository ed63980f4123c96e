"""The operator's own check: a second gateway with the operator's settings, which is killed, cut off and filled.

`posts` makes call logs, `agents` post them, `endpoint` takes them, `subject` is the gateway under test, `course` is
what happens to it, `oracle` says what came of it. Nothing touches the operator's own gateway, spool or destinations.
"""
