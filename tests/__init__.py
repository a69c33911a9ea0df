"""The tests of pymux: real sockets, port 0, every backend, nothing slept out."""
