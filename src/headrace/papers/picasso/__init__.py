"""PICASSO (Zhang et al. 2022): packing, interleaving and caching for wide recommenders. Read `card.md` first."""
