"""Delivers to S3 and to servers that speak its protocol."""
