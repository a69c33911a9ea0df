"""The four forms of a handler, and how each is called."""
