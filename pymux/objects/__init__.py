"""The users' objects: connections, batches, listeners."""
