"""Redaction of personal data in texts: one set of rules for what is stored and for what models are asked."""
