"""Contenders of benchmarks/pipeline.py: each trains one case (a network on a data set) in its own process."""
