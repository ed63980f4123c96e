"""Call logs as values: checking, recognising, splitting and summarising them. No I/O happens in this package."""
