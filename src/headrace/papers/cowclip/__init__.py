"""CowClip: large batches for click models at no loss of accuracy; see card.md."""
