"""CVAE (Tang et al. 2019): latent states that correlate along the edges of a graph. Read `card.md` first."""
