"""Spans that agents export by OpenTelemetry (OTLP/HTTP): spooled by trace, and assembled into call logs."""
