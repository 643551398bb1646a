"""The stand-in provider as a program."""

from __future__ import annotations

import argparse
import os

from cachepolicy import Duration
from cachepolicy_runtime import serving
from cachepolicy_runtime.standin.app import DEFAULT_DELAY, create_app


def main() -> None:
    parser = serving.parser(
        "python -m cachepolicy_runtime.standin",
        "A stand-in for an LLM provider, for trials and tests.",
        port=8080,
    )
    parser.add_argument(
        "--delay",
        type=_delay,
        default=os.environ.get("STANDIN_DELAY") or str(DEFAULT_DELAY),
        help="how long an answer takes, such as 400ms (STANDIN_DELAY)",
    )
    arguments = parser.parse_args()
    serving.log_to_stderr()
    serving.serve(create_app(arguments.delay), host=arguments.host, port=arguments.port)


def _delay(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
