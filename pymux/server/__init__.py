"""The server runs a mux in a thread, and drains the connections to stop."""
