"""The composition root: reads the settings, constructs the parts of the gateway, starts and stops them."""
