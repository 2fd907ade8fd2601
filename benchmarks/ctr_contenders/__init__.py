"""Contenders of benchmarks/ctr_accuracy.py: each trains a cell (family, data set, seed) in its own process."""
