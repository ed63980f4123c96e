"""Heartbeats and turns of calls that go on: durable, and made a call log where an agent is lost."""
