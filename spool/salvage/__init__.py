"""Bringing what another database holds into this one: of a damaged one what can be read, of a sound one everything."""
