"""A connection to the broker that breaks under a write is an error that the client tries again over."""

import asyncio

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

import streams.broker  # noqa: F401  (what makes it so)


async def write_to_a_closed_connection():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    connection = AIOKafkaConnection(host, port)
    connection._reader, connection._writer = await asyncio.open_connection(host, port)
    connection._read_task = asyncio.get_running_loop().create_future()
    connection._versions = {MetadataRequest.API_KEY: (0, 1)}
    connection._writer.transport.abort()
    await asyncio.sleep(0.05)
    try:
        await connection.send(MetadataRequest([]))
    finally:
        server.close()


def test_a_write_to_a_broken_connection_is_a_connection_error_on_uvloop_too():
    with pytest.raises(KafkaConnectionError):
        uvloop.run(asyncio.wait_for(write_to_a_closed_connection(), 10))
