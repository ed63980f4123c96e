"""callspool as it is installed: the launcher, and `config`, `gateway`, `spool` and `uploaders` as folders inside."""
