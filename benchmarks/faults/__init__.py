"""A campaign of faults against the production stack: `__main__` is the command, `catalogue` has the faults."""
