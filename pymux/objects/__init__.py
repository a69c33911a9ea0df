"""What users hold: connections, batches, listeners."""
