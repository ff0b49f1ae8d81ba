"""Sweeps and drains, each every so many seconds, as further workers on other hosts would.

    python sweeper.py SECONDS

A worker does so once a minute. A campaign waits for it after nearly every fault, and shortens the minute by this;
`--minute 60` runs none.
"""

import sys
import time
from contextlib import suppress

import psycopg
import redis

from orderflow_ingest import tasks
from orderflow_ingest.pipeline import retry
from orderflow_ingest.storage.database import DatabaseUnavailable
from orderflow_ingest.storage.queue import QueueUnavailable

while True:
    time.sleep(float(sys.argv[1]))
    with suppress(QueueUnavailable, DatabaseUnavailable):  # away: next time
        retry.sweep(tasks.app)
    with suppress(psycopg.Error, redis.RedisError):
        tasks.drain()
