"""``python -m mousebench``."""

import sys

from mousebench.cli import main

if __name__ == "__main__":
    sys.exit(main())
