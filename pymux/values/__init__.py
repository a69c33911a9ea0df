"""What users set and read: addresses, framings, limits, figures, errors. No C."""
