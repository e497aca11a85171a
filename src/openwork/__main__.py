"""`python -m openwork`: the same as the `openwork` command."""

import sys

from openwork.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
