"""Uploading by HTTP: connections, requests, answers."""
