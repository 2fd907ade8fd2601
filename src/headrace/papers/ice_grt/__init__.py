"""ICE-GRT (2024): fine-tune, learn a reward, then PPO with its price, norms and data. Read `card.md` first."""
