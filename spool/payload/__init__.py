"""The bytes of payloads: how they are packed into frames, and those kept in memory."""
