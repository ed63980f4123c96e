"""Call logs that providers push: signed webhooks, on a listener of their own."""
