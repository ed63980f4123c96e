"""Tests of how callspool is set up, built and installed."""
