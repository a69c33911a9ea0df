"""The four handler forms and their dispatchers."""
