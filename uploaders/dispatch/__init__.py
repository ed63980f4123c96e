"""Who uploads what and when: lanes, retries, breakers, limits."""
