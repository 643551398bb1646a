"""What tests of an outage ask of a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.redis import RedisTransport

#: What a busy machine may add before a test calls something too late.
SLACK_S = 3.0


async def failure(call: Awaitable[object]) -> str:
    """The reason for which it fails."""
    with pytest.raises(StoreUnavailable) as caught:
        await call
    return caught.value.reason


async def until_back(transport: RedisTransport) -> None:
    """Until the breaker closes; fails after the time that recovery may take."""
    async with asyncio.timeout(2.0 + SLACK_S):
        while not transport.available:  # noqa: ASYNC110 - the transport has no event that product code needs
            await asyncio.sleep(0.01)
