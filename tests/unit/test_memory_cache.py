"""The cache in this process: bounded, whatever is put into it."""

from __future__ import annotations

from cachepolicy_runtime.store.memory import MemoryCacheStore
from cachepolicy_runtime.store.port import CacheItem


class Clock:
    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


async def test_bytes_of_keys_and_values_and_the_number_of_entries_are_bounded() -> None:
    async def fill(value: bytes, count: int) -> tuple[int, int]:
        store = MemoryCacheStore(Clock(), max_bytes=100_000)
        for number in range(count):
            await store.put(f"key-{number}", value, 1000)
        figures = store.figures()
        assert figures.keys is not None
        assert figures.used_bytes is not None
        return figures.keys, figures.used_bytes

    for value, count in ((b"x" * 10_000, 50), (b"", 5_000)):
        keys, used = await fill(value, count)
        assert 0 < keys < 500
        assert used <= 100_000


async def test_what_was_used_longest_ago_goes_first() -> None:
    store = MemoryCacheStore(Clock(), max_bytes=4_000)
    for key in ("a", "b", "c"):
        await store.put(key, b"x" * 900, 1000)
    await store.get("a")
    await store.put("d", b"x" * 900, 1000)
    assert await store.mget(["a", "b", "c", "d"]) == [b"x" * 900, None, b"x" * 900, b"x" * 900]


async def test_what_is_larger_than_the_whole_memory_is_not_kept_and_drives_nothing_out() -> None:
    store = MemoryCacheStore(Clock(), max_bytes=4_000)
    await store.put("a", b"small", 1000)
    await store.put("b", b"x" * 4_000, 1000)
    assert await store.mget(["a", "b"]) == [b"small", None]
    await store.put("a", b"x" * 4_000, 1000)
    assert await store.get("a") is None, "the old value would be wrong now"


async def test_what_is_replaced_expired_or_deleted_gives_its_bytes_back() -> None:
    clock = Clock()
    store = MemoryCacheStore(clock, max_bytes=10_000)
    await store.mput([CacheItem("a", b"x" * 100, 10), CacheItem("b", b"x", 1000)])
    await store.put("b", b"y" * 50, 1000)
    clock.now += 10
    assert await store.get("a") is None
    await store.delete("b", "nothing")
    assert store.figures().used_bytes == 0
    assert store.figures().keys == 0
