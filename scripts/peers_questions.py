"""Measures scikit-activeml's margin sampling with scikit-learn's logistic regression on the spam of 15 mailboxes.

    python -m pip install scikit-learn scikit-activeml
    HEADRACE_DATA=... python scripts/peers_questions.py

The same splits as in the paper `active_multitask`: one model per mailbox, and one for all. Both begin with two random
mails per mailbox and then ask about the mail with the smallest margin; the pool is seen as a whole.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from skactiveml.pool import uncertainty_scores
from sklearn.linear_model import LogisticRegression

from headrace.papers.active_multitask.deals import Examples
from headrace.papers.active_multitask.recipe import emails

SEEDS, BUDGETS, FIRST, EVERY = (0, 1, 2), (150, 450), 2, 5


def matrix(examples: Examples) -> csr_matrix:
    """Return examples as rows of unit length, with a bias."""
    return csr_matrix((examples.values, examples.places, examples.starts), shape=(len(examples), examples.dim))


def asked(rows: csr_matrix, labels: np.ndarray, first: list[int], budgets: list[int], every: int) -> list[object]:
    """Return a model per budget, after asking about the smallest margin `every` mails at a time."""
    taken, models = list(first), []
    left = [row for row in range(len(labels)) if row not in set(first)]
    while True:
        known = len(set(labels[taken].tolist())) > 1
        model = LogisticRegression(C=10.0, max_iter=200).fit(rows[taken], labels[taken]) if known else None
        while budgets and len(taken) >= budgets[0]:
            models.append(model if model is not None else int(labels[taken[0]]))
            budgets = budgets[1:]
        if not budgets or not left:
            return models
        scores = np.zeros(len(left)) if model is None else uncertainty_scores(
            model.predict_proba(rows[left]), method="margin_sampling")  # fmt: skip
        chosen = [left[place] for place in np.argsort(-scores, kind="stable")[:every]]
        taken += chosen
        left = [row for row in left if row not in set(chosen)]


def said(model: object, rows: csr_matrix) -> np.ndarray:
    """Return predicted labels."""
    return np.full(rows.shape[0], model) if isinstance(model, int) else model.predict(rows)


def main() -> None:
    """Print accuracies."""
    found: dict[str, list[list[float]]] = {"one model per mailbox": [], "one model for all": []}
    for seed in SEEDS:
        split, draw = emails(seed), np.random.default_rng(seed)
        train, test = matrix(split.train), matrix(split.test)
        first = [draw.permutation(np.flatnonzero(split.train.owners == task))[:FIRST] for task in range(split.tasks)]
        right = np.zeros((len(BUDGETS), 2))
        for task in range(split.tasks):
            own, judged = np.flatnonzero(split.train.owners == task), split.test.owners == task
            begin = [int(np.flatnonzero(own == row)[0]) for row in first[task]]
            budgets = [budget // split.tasks for budget in BUDGETS]
            models = asked(train[own], split.train.labels[own], begin, budgets, 1)
            for place, model in enumerate(models):
                right[place, 0] += (said(model, test[judged]) == split.test.labels[judged]).sum() / len(split.test)
        models = asked(train, split.train.labels, [int(row) for part in first for row in part], list(BUDGETS), EVERY)
        right[:, 1] = [(said(model, test) == split.test.labels).mean() for model in models]
        for place, name in enumerate(found):
            found[name].append(right[:, place].tolist())
        print(seed, right.tolist(), flush=True)
    for name, values in found.items():
        means, spreads = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
        print(name, *(f"{budget} questions: {mean:.4f} ± {spread:.4f}"
                      for budget, mean, spread in zip(BUDGETS, means, spreads, strict=True)), sep="; ")  # fmt: skip


if __name__ == "__main__":
    main()
