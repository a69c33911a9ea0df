"""One mux's state beneath what users hold, and the only room that calls the core."""
