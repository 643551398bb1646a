"""The entry of ``cachepolicy-gateway`` on PATH, which is installed with every extra and with none."""

from __future__ import annotations

import sys


def gateway() -> int:
    """Run the reference Core; without what it needs, say which extra brings it."""
    try:
        from cachepolicy_runtime.gateway.__main__ import main
    except ModuleNotFoundError as error:
        print(
            f"cachepolicy-gateway needs the package {error.name}: pip install 'cachepolicy[gateway]'",
            file=sys.stderr,
        )
        return 2
    main()
    return 0
