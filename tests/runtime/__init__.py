"""Tests of what the composition root makes of the settings."""
