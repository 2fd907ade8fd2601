"""Variational predictive natural gradient (Tang and Ranganath 2019). Read `card.md` first."""
