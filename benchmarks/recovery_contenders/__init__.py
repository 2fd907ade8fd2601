"""What `benchmarks/recovery.py` measures: an elastic run of ours, and torchft."""
