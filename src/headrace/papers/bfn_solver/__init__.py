"""Fast solvers for Bayesian flow networks (Xue et al. 2024). Read `card.md` first."""
