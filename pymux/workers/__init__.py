"""Several processes that serve together: the supervisor, and what a worker runs.

The supervisor (supervisor.py) owns the listening sockets (sockets.py), starts new
interpreters (process.py) and speaks with each over a socket (channel.py). A worker
(child.py) finds the handler (references.py), binds a server without listeners, says
that it is ready, and listens on the sockets that the supervisor sends.
"""
