"""Mistral-Plus (2024): rewards directly on the base model, without fine-tuning first. Read `card.md` first."""
