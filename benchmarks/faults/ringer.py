"""Sweeps, and rings for the drain, each so many seconds, as further workers on other hosts would.

    python ringer.py SECONDS

A worker does so once a minute. A campaign waits for it after nearly every fault, and shortens the minute by this;
`--minute 60` runs none.
"""

import sys
import time
from contextlib import suppress

import psycopg
import redis

from orderflow_ingest import attempts, tasks
from orderflow_ingest.queue import QueueUnavailable
from orderflow_ingest.records import RecordsUnavailable

while True:
    time.sleep(float(sys.argv[1]))
    with suppress(QueueUnavailable, RecordsUnavailable):  # away: next time
        attempts.sweep(tasks.parts)
    with suppress(psycopg.Error, redis.RedisError):
        tasks.drain()
