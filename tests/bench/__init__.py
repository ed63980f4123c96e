"""Tests of the benchmark: what it reports must be what was measured."""
