"""Clients for coroutines: how they are connected and closed, and what they say when they are not."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest
from support.transports import tcp_server

from easycluster import AsyncClient, ConnectError, ConnectionClosed, ThreadedClient, define_common
from easycluster.server import spawn_local

__all__ = ["tcp_server"]

DEFINITIONS = "client_aio"

define_common("def add(a, b): return a + b", DEFINITIONS)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 40))


def test_a_block_connects_and_closes(tcp_server):
    server, key = tcp_server

    async def main():
        client = AsyncClient(key, "127.0.0.1", server.port, definitions=DEFINITIONS)
        assert repr(client) == "<AsyncClient ?, not connected>"
        async with client as entered:
            assert entered is client
            assert (client.connected, client.peername) == (True, f"127.0.0.1:{server.port}")
            assert await client.add(1, 2) == 3
        assert not client.connected
        with pytest.raises(ConnectionClosed, match="the connection was closed"):
            await client.add(1, 2)
        await client.close()

    run(main())


def test_a_client_is_connected_by_awaiting_it_or_by_connect(tcp_server):
    server, key = tcp_server

    async def main():
        first = await AsyncClient(key, host="127.0.0.1", port=server.port, definitions=DEFINITIONS)
        second = await AsyncClient(key, definitions=DEFINITIONS).connect("127.0.0.1", server.port)
        assert await asyncio.gather(first.add(1, 1), second.add(2, 2)) == [2, 4]
        pid = await second.os.getpid()
        assert await second.connect() is second
        assert await second.os.getpid() == pid
        await second.reconnect()
        assert await second.os.getpid() != pid
        await first.close()
        await second.close()

    run(main())


def test_a_spec_says_where(tcp_server):
    server, key = tcp_server

    async def main():
        async with AsyncClient.from_spec(
            f"127.0.0.1:{server.port}", default_key=key, definitions=DEFINITIONS
        ) as client:
            return await client.add(1, 2)

    assert run(main()) == 3


def test_definitions_that_come_later_are_sent():
    define_common("def early(): return 1", "client_aio_late")

    async def main():
        async with AsyncClient.spawn_local(definitions="client_aio_late") as client:
            assert await client.early() == 1
            define_common("def late(): return 2", "client_aio_late")
            await client.update_definitions()
            return await client.late()

    assert run(main()) == 2


def test_what_cannot_be_connected_says_why(tcp_server):
    _server, key = tcp_server

    async def main():
        with pytest.raises(ConnectError, match=r"127.0.0.1:1"):
            await AsyncClient(key, "127.0.0.1", 1)
        with pytest.raises(ValueError, match=r"connect\(\) needs a host"):
            await AsyncClient(key)
        with pytest.raises(ConnectionClosed, match=r"not connected; await connect\(\)"):
            await AsyncClient(key, "127.0.0.1", 1).add(1, 2)
        with pytest.raises(ConnectionClosed, match="not connected"):
            _ = AsyncClient(key).client

    run(main())


def test_connecting_can_be_cancelled_and_leaves_nothing():
    async def main():
        task = asyncio.ensure_future(AsyncClient.spawn_local().connect())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    # The thread that connects is waited for at the end, and the session closed; what is left fails the test.
    run(main())


def test_a_client_that_reads_its_answers_itself_serves_coroutines_too():
    with spawn_local(ThreadedClient, definitions=DEFINITIONS) as client:

        async def main():
            aio = AsyncClient.over(client)
            results = await asyncio.gather(*(aio.add(number, 1) for number in range(50)))
            return results, await aio.add(1, 1)

        assert run(main()) == (list(range(1, 51)), 2)
        assert client.add(2, 2) == 4


def test_what_coroutines_do_not_have_says_what_to_write(tcp_server):
    server, key = tcp_server

    async def main():
        async with AsyncClient(key, "127.0.0.1", server.port, definitions=DEFINITIONS) as client:
            with pytest.raises(TypeError, match="oncomplete= and onerror= are not for coroutines"):
                client.add(1, 2, oncomplete=print)
            with pytest.raises(AttributeError, match=r"write: await ....set_global\('limit', value\)"):
                client.limit.value = 3
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(client)
            with pytest.raises(TypeError, match=r"limit is a name; await limit\(...\), or its value"):
                await client.limit
            return threading.active_count()

    run(main())
