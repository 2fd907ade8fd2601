"""Monolith (Liu et al. 2022): a recommender that learns online on collisionless tables. Read `card.md` first."""
