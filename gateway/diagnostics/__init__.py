"""Trying destinations out: probes, and the checks and set-up of S3 buckets."""
