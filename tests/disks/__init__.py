"""Disks that tests make and break: small ones, ones whose power is cut, ones that fail."""
