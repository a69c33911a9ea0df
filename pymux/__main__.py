# PYTHON_ARGCOMPLETE_OK
"""`python -m pymux`: the same as the command `pymux`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
