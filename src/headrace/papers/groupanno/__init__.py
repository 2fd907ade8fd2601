"""GroupAnno (Liu et al. 2022): labels from annotators whose groups err alike. Read `card.md` first."""
