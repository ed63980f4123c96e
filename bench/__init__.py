"""Measurements of callspool beside what its event loop and its HTTP library could do at best."""
