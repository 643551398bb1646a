"""The commands on PATH say which extra is missing: they are installed with every extra and with none."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("entry", "package", "extra"),
    [
        ("cachepolicy_operator.console:main", "yaml", "operator"),
        ("cachepolicy_runtime.console:gateway", "fastapi", "gateway"),
        ("cachepolicy_cli.console:main", "rich", "cli"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(entry: str, package: str, extra: str) -> None:
    """None in ``sys.modules`` makes an import fail as if the package were not installed."""
    module, _, function = entry.partition(":")
    program = (
        f"import sys; sys.modules[{package!r}] = None; "
        f"from {module} import {function}; sys.exit({function}())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"needs the package {package}" in ended.stderr
    assert f"cachepolicy[{extra}]" in ended.stderr
    assert "Traceback" not in ended.stderr
