"""The database of the spool: connections, the writer's thread, statements, counters."""
