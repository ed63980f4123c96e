"""Configuration: what can be set, read from a file and the environment, checked as a whole."""
