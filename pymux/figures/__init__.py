"""Figures that other processes can read: pages of shared memory, a file's.

The core of a worker counts in its page. Nobody asks the worker, so a worker that is
stuck shows like any other.
"""
