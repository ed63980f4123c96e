"""What is done with records and deliveries: accepting, reading, settling, reclaiming, maintaining."""
