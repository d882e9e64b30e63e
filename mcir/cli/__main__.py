"""``python -m mcir.cli``: the command ``mcir``."""

import sys

from mcir.cli import main

if __name__ == "__main__":
    sys.exit(main())
