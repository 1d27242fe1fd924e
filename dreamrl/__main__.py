"""``python -m dreamrl`` is the ``dreamrl`` command."""

import sys

from dreamrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
