"""Salvage and adoption as an order at the admin listener and on the command line."""
