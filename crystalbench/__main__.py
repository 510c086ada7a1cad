"""``python -m crystalbench``."""

import sys

from crystalbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
