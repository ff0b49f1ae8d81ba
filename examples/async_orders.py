"""A handler that runs asyncio code. The handler itself is a plain function: an async one is refused."""

import asyncio

from orderflow_ingest import OrderDocument


def receive(order: OrderDocument) -> None:
    """Run the asyncio code to its end."""
    asyncio.run(store(order))


async def store(order: OrderDocument) -> None:
    """Do two things at the same time."""
    await asyncio.gather(index(order), copy(order))


async def index(order: OrderDocument) -> None:
    """Stand for a call of an asyncio library."""
    await asyncio.sleep(0)


async def copy(order: OrderDocument) -> None:
    """Read in a thread, since reading from the archive waits for the network."""
    await asyncio.to_thread(order.read)
