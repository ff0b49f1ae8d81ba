"""What the benchmarks share: the machine's facts, the stacks, the sender, measures and tables."""
