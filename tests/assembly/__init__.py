"""Tests of what the assembly makes of the settings."""
