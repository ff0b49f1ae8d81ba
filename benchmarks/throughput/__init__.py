"""How much mail a host takes: every way into every stack, memory, recipients, backlogs and replays."""
