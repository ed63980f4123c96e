"""The worker: reads events of calls from Kafka and writes them into a store."""
