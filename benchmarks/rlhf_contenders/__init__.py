"""Peers of the language benchmark; each runs in an environment of its own."""
