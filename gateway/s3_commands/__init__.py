"""What `callspool s3` does, without a word about how it is printed."""
