"""Active multitask learning with committees (2021): whom to ask next, over many tasks. Read `card.md` first."""
