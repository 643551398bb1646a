"""The runtime stands without the libraries that its clients are for, and says what is missing when it is asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cachepolicy_runtime.clients.missing import needs

#: Run in a process of its own: an interpreter in which none of these can be imported.
_WITHOUT = """
import sys
for name in ("httpx", "httpx2", "fastapi", "starlette", "uvicorn", "langchain_core", "openai", "anthropic"):
    sys.modules[name] = None
from cachepolicy_runtime import CacheRuntime
runtime = CacheRuntime.from_env(identify=lambda scope: None, environ={})
runtime.endpoints()

@runtime.cached()
async def answer() -> int:
    return 1

for ask in (
    lambda: runtime.http_client("openai"),
    lambda: runtime.http_client("openai", library="httpx"),
    lambda: runtime.thread_client("openai"),
    lambda: runtime.limit("uploads"),
    lambda: __import__("cachepolicy_runtime.clients.langchain"),
):
    try:
        ask()
    except ModuleNotFoundError as error:
        print(error)
"""


def test_the_runtime_needs_none_of_them_until_it_is_asked() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "this needs httpx2: pip install 'httpx2'",
        "this needs httpx: pip install 'httpx'",
        "this needs httpx2: pip install 'httpx2'",
        "this needs fastapi: pip install 'fastapi'",
        "this needs langchain_core: pip install 'cachepolicy[langchain]'",
    ]


def test_a_library_that_is_broken_in_itself_is_not_called_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="half"), needs("whole"):
        raise ModuleNotFoundError("No module named 'half'", name="half")
