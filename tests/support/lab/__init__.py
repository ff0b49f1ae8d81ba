"""Real servers of our own for tests and the demo: PostgreSQL, S3 (Ceph), Redis, Postfix.

Each runs on loopback and free ports, in a directory it is given, and touches no instance of the system. Each
is a context manager with start(), stop() and kill(); a killed one starts again with what it had synced. None
outlives the interpreter that started it, however that ends. Nothing here imports pytest.

The directory and every one above it must let other users pass (mode 755): PostgreSQL and the commands of
pipe(8) do not run as root. `scratch()` makes such a directory; pytest's tmp_path is not one.
"""
