"""``python -m fastsoftmax``: the command line (cli/main.py)."""

import sys

from fastsoftmax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
