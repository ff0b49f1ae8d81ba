"""The former name of `entrypoints.pipe`, which stands in master.cf. It imports nothing more than that module."""

from orderflow_ingest.entrypoints.pipe import main

__all__ = ["main"]
