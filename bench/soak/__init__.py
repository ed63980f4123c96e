"""Everything at once for minutes: load, bad clients, outages, restarts; then what leaked and what was lost."""
