"""The entry of ``mc`` on PATH, which is installed with every extra and with none."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; without what it needs, say which extra brings it."""
    try:
        from cachepolicy_cli import cli
    except ModuleNotFoundError as error:
        print(f"mc needs the package {error.name}: pip install 'cachepolicy[cli]'", file=sys.stderr)
        return 2
    return cli.main()
