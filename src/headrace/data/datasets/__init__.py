"""Public data sets as event logs: one module each, with `find`, `load` and `schema`."""
