"""The state of one mux, and all calls into the core."""
