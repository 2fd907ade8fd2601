"""The contenders of `benchmarks/prepare.py`, each a script of its own that writes what it measured to a file."""
