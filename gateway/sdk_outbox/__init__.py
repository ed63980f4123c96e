"""Rescuing what the Whispey SDK leaves behind in its outbox: rows are made durable in the spool, then deleted there."""
