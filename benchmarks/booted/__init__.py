"""The installation under a real systemd: `__main__` is the command, `scenarios` has what is done to it."""
