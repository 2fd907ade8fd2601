"""What `benchmarks/table.py` compares: one file per contender, each run as a process of its own."""
