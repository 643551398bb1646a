"""What every server of the suites can be relied on for."""

from __future__ import annotations

from tests.servers import Server


async def test_a_server_is_empty_at_the_start_of_a_test_and_keeps_what_is_written(server: Server) -> None:
    async with server.client() as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")
        assert await client.get("left") == b"behind"


async def test_what_another_test_wrote_is_gone(server: Server) -> None:
    async with server.client() as client:
        assert await client.get("left") is None


async def test_scripts_read_the_servers_clock(server: Server) -> None:
    async with server.client() as client:
        seconds = await client.eval("return redis.call('TIME')[1]", 0)
        assert int(seconds) > 1_700_000_000


async def test_a_published_message_reaches_a_subscriber(server: Server) -> None:
    async with server.client() as client, client.pubsub() as subscriber:
        await subscriber.subscribe("channel")
        assert (await subscriber.get_message(timeout=2) or {})["type"] == "subscribe"
        await client.publish("channel", "hello")
        assert (await subscriber.get_message(timeout=2) or {})["data"] == b"hello"
