"""Servers that rank the same candidates with the same network, and what measures them."""
