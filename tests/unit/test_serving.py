"""Where a program listens: the command line before the environment, loopback where nothing is said."""

from __future__ import annotations

import pytest

from cachepolicy_runtime import serving


def places(environ: dict[str, str], *arguments: str) -> tuple[str, int]:
    parsed = serving.parser("program", "What it is.", port=8080, environ=environ).parse_args(arguments)
    return parsed.host, parsed.port


def test_nothing_outside_this_machine_is_reached_unless_somebody_says_so() -> None:
    """The default is loopback; empty variables count as absent."""
    assert places({}) == places({"HOST": "", "PORT": ""}) == ("127.0.0.1", 8080)


def test_the_command_line_wins_over_the_environment() -> None:
    """HOST and PORT are for containers."""
    environ = {"HOST": "0.0.0.0", "PORT": "80"}
    assert places(environ) == ("0.0.0.0", 80)
    assert places(environ, "--host", "127.0.0.1", "--port", "9000") == ("127.0.0.1", 9000)


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "tcp://10.0.0.1:80"])
def test_a_port_that_is_none_ends_the_start(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From the environment as from the command line."""
    for environ, arguments in (({"PORT": port}, ()), ({}, (f"--port={port}",))):
        with pytest.raises(SystemExit):
            places(environ, *arguments)
        assert "a number from 1 to 65535" in capsys.readouterr().err
