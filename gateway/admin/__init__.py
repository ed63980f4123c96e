"""What people and scrapers see: metrics, health, the status page and its JSON API."""
