"""Tests of what is made of calls after they ended."""
