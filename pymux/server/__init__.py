"""A mux in a thread of its own, and how it stops."""
