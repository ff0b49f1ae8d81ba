"""To open a queue connects to nothing."""

from orderflow_ingest.storage.queue import Queue
from tests.support.lab.process import free_port
from tests.support.queue_rows import SECRET


def test_opening_a_queue_connects_to_nothing_and_creates_nothing(place):
    Queue(f"sqlite:///{place}/queue.db")
    Queue(f"postgresql+psycopg://of:{SECRET}@127.0.0.1:{free_port()}/of")
    Queue(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    assert list(place.iterdir()) == []
