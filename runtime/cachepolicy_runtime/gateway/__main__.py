"""The reference Core as a program."""

from __future__ import annotations

import sys

from cachepolicy_runtime import serving
from cachepolicy_runtime.gateway.app import create_app


def main() -> None:
    arguments = serving.parser(
        "cachepolicy-gateway", "The reference Core of CachePolicy.", port=8080
    ).parse_args()
    serving.log_to_stderr()
    try:
        app = create_app()
    except ValueError as error:
        sys.exit(f"cachepolicy-gateway: {error}")
    serving.serve(app, host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
