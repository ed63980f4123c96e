"""callspool beside what one could use instead: queues behind a small front, each with a worker that posts to a sink."""
