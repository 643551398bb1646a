"""A process that is killed while a request of it is under way: its slot is free again when its lease has run out."""

from __future__ import annotations

import asyncio
import signal
import sys

from tests.servers import Server
from tests.stores import transport_to

from cachepolicy_runtime.store.port import LeaseCheck
from cachepolicy_runtime.store.redis_limits import RedisLimitStore

KEY = "masterclaw/core:p:parallel:tenant=acme"
TIMEOUT_MS = 1_000

#: Takes the only slot and renews it three times as often as it has to, until it is killed.
HOLDER = f"""
import asyncio, sys
from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.port import Lease, LeaseCheck
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.redis_limits import RedisLimitStore

async def main():
    address, credentials = parse_url(sys.argv[1])
    store = RedisLimitStore(RedisTransport("state", address, fixed(credentials)))
    got = await store.admit([LeaseCheck({KEY!r}, 1, {TIMEOUT_MS})], lease="holder")
    print(got.admitted, flush=True)
    while True:
        await asyncio.sleep({TIMEOUT_MS} / 3000)
        await store.renew([Lease({KEY!r}, "holder")], {TIMEOUT_MS})

asyncio.run(main())
"""


async def test_a_killed_process_gives_its_slot_back_and_a_living_one_keeps_it(real_server: Server) -> None:
    real_server.flush()
    transport = transport_to(real_server.url)
    store = RedisLimitStore(transport)

    async def free(lease: str) -> bool:
        return (await store.admit([LeaseCheck(KEY, 1, TIMEOUT_MS)], lease=lease)).admitted

    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, real_server.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"True\n"
        for number in range(8):  # longer than one lease
            assert not await free(f"waiting-{number}"), "it is renewed"
            await asyncio.sleep(TIMEOUT_MS / 4000)
        holder.send_signal(signal.SIGKILL)
        await holder.wait()
        assert not await free("too-early"), "nobody gave it back"
        for _ in range(120):
            if await free("next"):
                break
            await asyncio.sleep(0.05)
        assert not await free("another"), "there is one slot"
    finally:
        if holder.returncode is None:
            holder.kill()
            await holder.wait()
        await transport.aclose()
