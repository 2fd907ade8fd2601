"""VAE recommenders with user-dependent priors (Karamanolakis et al. 2018). Read `card.md` first."""
