"""What is sent: which parts of a payload, in which form and encoding."""
