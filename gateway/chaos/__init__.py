"""Fault injection for operators: a second gateway with their settings is killed, cut off and filled.

`traffic` has the agents and the endpoint, which fails in the fault modes it is set to; `harness` the gateway under test
and the scenario that it goes through; `oracle` compares what was acknowledged with what arrived. Nothing touches the
operator's own gateway, spool or destinations.
"""
