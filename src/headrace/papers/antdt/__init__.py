"""AntDT (Xu et al. 2024): slow workers and servers, seen by two windows and helped by rows, restarts and buckets."""
