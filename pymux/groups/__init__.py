"""Groups: messages for many connections, here and at other workers by a broker."""
