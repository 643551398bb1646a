"""``python -m cachepolicy_cli``."""

import sys

from cachepolicy_cli.console import main

if __name__ == "__main__":
    sys.exit(main())
