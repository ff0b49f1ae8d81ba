"""Rings for the sweep and the drain each so many seconds, as further workers on other hosts would.

    python ringer.py SECONDS

A worker's own scheduler does so once a minute. A campaign waits for it after nearly every fault, and shortens the
minute by this; `--minute 60` runs none.
"""

import sys
import time

import psycopg
import redis

from orderflow_ingest import tasks

while True:
    time.sleep(float(sys.argv[1]))
    for task in (tasks.sweep, tasks.drain):
        try:
            task()
        except (psycopg.Error, redis.RedisError):
            continue  # the queue is away: next time
