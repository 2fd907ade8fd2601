"""ACVAE (Tang et al. 2019): CVAE whose prior moves, and beliefs passed along its trees. Read `card.md` first."""
