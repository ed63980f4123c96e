"""How much work is done, not how long it takes: these figures are the same on every machine."""
