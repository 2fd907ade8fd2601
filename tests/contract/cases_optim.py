"""Natural gradients: the objective that shows an optimiser what is predicted, and a learner that steps with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from headrace.learn import RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.optim import Bernoulli, Kfac, LowRank, NaturalGradient, Observed
from headrace.optim.fisher import Form
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.testing import Toy, ToyConfig, Verdict, check_learner, check_objective

TOY = Toy(ToyConfig(seed=1, users=32, items=64, rows_per_s=0.05))


def learner(form: Form, *, every: int = 1) -> RankLearner:
    names = ("user", "item")
    tables = {name: ReferenceTable(TableConfig(name=name, dim=4, rule=Adagrad(lr=0.05))) for name in names}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in names])
    model = DeepFM(collection, names, 0, (8,), dropout=0.2, seed=1)
    inner = torch.optim.Adam(list(model.parameters()), lr=0.01)
    optimizer = NaturalGradient(inner, model, form, every=every)
    return RankLearner(model, collection, optimizer, Observed(LogLoss(), optimizer, family=Bernoulli()))


def learners() -> Iterator[tuple]:
    for form, other, every in ((LowRank(rank=16), Kfac(), 1), (Kfac(refresh=2), LowRank(rank=16), 2)):

        def run(_: Path, form: Form = form, other: Form = other, every: int = every) -> Verdict:
            others = [lambda: learner(other, every=every), lambda: learner(form, every=every + 1)]
            return check_learner(lambda: learner(form, every=every), list(TOY.batches(48, 6)), others=others)

        yield "Learner", RankLearner, run, (), f"natural-{type(form).__name__}"


def objectives() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        one, (first, second) = learner(LowRank(rank=16)), TOY.batches(48, 2)
        return check_objective(one.objective, one.model.eval(), first, other=second)

    yield "Objective", Observed, run, ()


CASES = (learners, objectives)
