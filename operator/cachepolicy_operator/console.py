"""The entry of ``kubectl-cachepolicy`` on PATH, which is installed with every extra and with none."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; without what it needs, say which extra brings it."""
    try:
        from cachepolicy_operator import cli
    except ModuleNotFoundError as error:
        print(
            f"kubectl-cachepolicy needs the package {error.name}: pip install 'cachepolicy[operator]'",
            file=sys.stderr,
        )
        return 2
    return cli.main()
