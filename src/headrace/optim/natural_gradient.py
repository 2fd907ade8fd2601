"""Variational predictive natural gradient: a torch optimiser whose gradients are first solved by a Fisher matrix.

It wraps any `torch.optim.Optimizer` and takes its place, in a loop of your own or in a learner. The Fisher matrix is
that of what the model *predicts*, the reparameterised noise of its latents included, over all parameters that a
prediction depends on, of the variational part and of the model alike. `Observed` is the wrapper around an objective
that shows the optimiser what was predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headrace.config import known_name, require
from headrace.errors import ConfigError, NonFiniteLoss
from headrace.optim.fisher import FISHER, Covered, Form, Identity, LayerScores, Observation
from headrace.optim.predictive import Bernoulli, Draws, Family
from headrace.protocols import Objective
from headrace.types import Batch, Loss

_SEEN, _LAYER = FISHER + "seen", FISHER + "layer"
_STEPS = "fisher_steps"
"""Where the first group counts the steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a linear layer: what it was given, and what it gave, with its graph."""

    layer: nn.Linear
    inputs: Tensor
    outputs: Tensor


@dataclass(slots=True, eq=False)
class Tape:
    """Calls of the linear layers of a forward pass, in order."""

    calls: list[Call] = field(default_factory=list)


class NaturalGradient(Optimizer):
    """Solves gradients by a Fisher matrix and hands them to another optimiser.

    One step: the Fisher matrix moves towards the last observation, the gradients g of the parameters that it covers
    become ``(F + damping I)^{-1} g``, and the inner optimiser steps. Parameters that no observed output depends on
    keep their plain gradient. The first observations are averaged alike, so that F is never held towards zero.

    Its state, that of the inner optimiser included, lies in `state_dict` by parameter: a learner saves and restores
    it like any other, and a run that was stopped goes on to the bit. Rates are the inner optimiser's.

    Args:
        inner: Takes the solved gradients. Plain SGD makes a natural gradient step; the authors use Adam.
        model: Holds the parameters. Scores of its linear layers come from one backward pass for all examples; those
            of any other parameter from one per example, vectorised.
        form: How the matrix is held: `Exact`, `LowRank`, `Kfac`, `Diagonal`, `Identity`.
        decay: What is kept of the matrix at an observation.
        every: Steps per observation.
        examples: Of each batch only so many, the first, are observed; None: all.
        draws: How the expectation over outcomes is taken.

    Raises:
        ConfigError: If a setting cannot work.

    Source:
        Tang and Ranganath 2019, "The Variational Predictive Natural Gradient". The authors' code holds a block
        tridiagonal matrix of Kronecker factors; here layers are coupled wholly (`Exact`, `LowRank`) or not (`Kfac`).

    Example:
        >>> from headrace.optim import Bernoulli, LowRank
        >>> model = nn.Linear(3, 1)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> optimizer = NaturalGradient(sgd, model, LowRank(rank=4))
        >>> with optimizer.recording() as tape:
        ...     logits = model(torch.ones(5, 3))[:, 0]
        >>> optimizer.observe(tape, logits, Bernoulli())
        >>> logits.sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, inner: Optimizer, model: nn.Module, form: Form, *, decay: float = 0.9, every: int = 1,
        examples: int | None = None, draws: Draws | None = None,
    ) -> None:  # fmt: skip
        require(0 <= decay < 1, "NaturalGradient.decay", got=decay, expected="a number in [0, 1)")
        require(every >= 1, "NaturalGradient.every", got=every, expected="at least 1")
        require(examples is None or examples >= 1, "NaturalGradient.examples", got=examples, expected="at least 1")
        super().__init__([parameter for group in inner.param_groups for parameter in group["params"]], {})
        self.inner, self.form, self.draws = inner, form, draws or Draws()
        self.decay, self.every, self.examples = decay, every, examples
        self.param_groups, self.defaults = inner.param_groups, inner.defaults
        for group in self.param_groups:
            group["fisher"] = f"{form!r}, decay={decay}, every={every}, examples={examples}, {self.draws!r}"
        self._layers = _linear_layers(model, self._held())
        self._pending: tuple[Observation, Covered] | None = None

    def _held(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def wants_observation(self) -> bool:
        """Return whether the next step wants an observation."""
        return not isinstance(self.form, Identity) and int(self.param_groups[0].get(_STEPS, 0)) % self.every == 0

    @contextmanager
    def recording(self) -> Iterator[Tape]:
        """Write down what the model's linear layers do; hand the tape to `observe` before the backward pass."""
        tape = Tape()

        def note(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                tape.calls.append(Call(cast(nn.Linear, layer), given[0].detach(), output))

        hooks = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            yield tape
        finally:
            for hook in hooks:
                hook.remove()

    def observe(self, tape: Tape, outputs: Tensor, family: Family, *, generator: torch.Generator | None = None) -> None:
        """Take the scores of a batch, to be learned from in the next step; a later observation replaces it.

        The loss should be a mean over the rows of the outputs, for F is one, too.

        Args:
            tape: Of the forward pass that made the outputs.
            outputs: (B, ..., K) or (B,), with their graph; a row is an example, with its own draw of the latents.
                F is averaged over what stands between the first and the last dimension: further draws, places.
            family: How outcomes scatter around the outputs.
            generator: Of outcomes and signs; None: torch's own, which a learner seeds and keeps.

        Raises:
            NonFiniteLoss: If a score is not finite; nothing was changed.
            ConfigError: If the outputs depend on no parameter; or, for `Exact`, on further ones than before.
        """
        require(outputs.requires_grad and len(outputs) > 0, "Observed outputs",
                got="no rows" if not len(outputs) else "no graph", expected="rows of outputs with their graph",
                do="Pass them as the model gave them, not detached.")  # fmt: skip
        residuals = self.draws.residuals(family, outputs.detach(), generator)
        many = len(outputs) if self.examples is None else min(self.examples, len(outputs))
        residuals[:, many:] = 0
        seen = self._scores(tape, outputs, residuals, many)
        found = [*seen.rest.values(), *(layer.gradients for layer in seen.layers)]
        require(bool(found), "Observed outputs", got="no parameter that they depend on",
                expected="some parameter of the optimiser")  # fmt: skip
        if not all(bool(torch.isfinite(scores.square().sum())) for scores in found):
            raise NonFiniteLoss("Fisher matrix", got="NaN or infinity in the scores of the outputs",
                                expected="finite values", do="Nothing was changed. Lower the rates.")  # fmt: skip
        covered, before = self._covered(seen), self._covered()
        new = len(covered.parameters) - len(before.parameters)
        if before.parameters and new and not self.form.grows:
            raise ConfigError("Observed outputs", got=f"{new} parameters behind them that had no part earlier",
                              expected=f"some of the same {len(before.parameters)}", do="Use LowRank.")  # fmt: skip
        self._pending = seen, covered

    def _scores(self, tape: Tape, outputs: Tensor, residuals: Tensor, many: int) -> Observation:
        calls = [call for call in tape.calls if self.form.by_layer or _rows_are_examples(call, tape, len(outputs))]
        layers = _layer_scores(calls, outputs, residuals, many)
        inside = {own for call in calls for own in call.layer.parameters()}
        others = [own for own in self._held() if own.requires_grad and own.numel() and own not in inside]
        return Observation(many, layers, _single_scores(others, outputs, residuals, many))

    def _covered(self, seen: Observation | None = None) -> Covered:
        """Return the parameters of earlier observations and of this one."""
        layers: dict[Tensor, Tensor | None] = {
            layer.weight: layer.bias for layer in self._layers if _LAYER in self.state.get(layer.weight, {})
        }
        found = {own for own in self._held() if _SEEN in self.state.get(own, {})}
        if seen is not None:
            layers |= {layer.weight: layer.bias for layer in seen.layers}
            found |= {*seen.rest, *(own for pair in layers.items() for own in pair if own is not None)}
        return Covered(tuple(own for own in self._held() if own in found), layers)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Learn from the observation, solve the gradients in their place, and let the inner optimiser step.

        Without an observation the matrix stays as it is.

        Args:
            closure: Computes loss and gradients again, and observes.

        Raises:
            ConfigError: If nothing was ever observed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not isinstance(self.form, Identity):
            self._solve()
        group = self.param_groups[0]
        group[_STEPS] = int(group.get(_STEPS, 0)) + 1
        self.inner.step()
        return loss

    def _solve(self) -> None:
        if self._pending is not None:
            seen, covered = self._pending
            count = 1 + max(int(self.state[own].get(_SEEN, 0)) for own in covered.parameters)
            self.form.update(self.state, seen, covered, max(1 - self.decay, 1 / count))
            for own in covered.parameters:
                self.state[own][_SEEN] = torch.tensor(count)
            for weight in covered.layers:
                self.state[weight][_LAYER] = torch.tensor(1)
            self._pending = None
        held = self._covered()
        if not held.parameters:
            raise ConfigError("NaturalGradient.step", got="no observation yet", expected="one before the first step",
                              do="Wrap the objective in Observed, or call observe.")  # fmt: skip
        given = [torch.zeros_like(own) if own.grad is None else own.grad for own in held.parameters]
        for own, solved in zip(held.parameters, self.form.solve(self.state, given, held), strict=True):
            own.grad = solved

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimiser's state with what the form holds of each parameter beside it."""
        content = self.inner.state_dict()
        slots = {place: dict(own) for place, own in content["state"].items()}
        for place, parameter in enumerate(self._held()):
            if self.state.get(parameter):
                slots[place] = {**slots.get(place, {}), **self.state[parameter]}
        return {**content, "state": slots}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        inner: dict[int, dict[str, Any]] = {}
        own: dict[int, dict[str, Tensor]] = {}
        for place, slots in state_dict["state"].items():
            for name, value in slots.items():
                (own if name.startswith(FISHER) else inner).setdefault(place, {})[name] = value
        self.inner.load_state_dict({**state_dict, "state": inner})
        self.param_groups = self.inner.param_groups
        self.state.clear()
        for place, parameter in enumerate(self._held()):
            if place in own:
                self.state[parameter] = {name: value.detach().clone() for name, value in own[place].items()}
        self._pending = None


def _linear_layers(model: nn.Module, held: Sequence[Tensor]) -> list[nn.Linear]:
    """Return the linear layers that learn, but for those whose parameters others use, too."""
    members = {parameter for parameter in held if parameter.requires_grad}
    uses: dict[Tensor, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[parameter] = uses.get(parameter, 0) + 1
    return [
        module for module in model.modules()
        if isinstance(module, nn.Linear) and all(own in members and uses[own] == 1 for own in module.parameters())
    ]  # fmt: skip


def _rows_are_examples(call: Call, tape: Tape, rows: int) -> bool:
    # Packed places of sequences can be as many as there are examples by chance; then one observation mixes them up.
    alone = sum(other.layer is call.layer for other in tape.calls) == 1
    return alone and call.inputs.dim() > 1 and len(call.inputs) == rows


def _layer_scores(calls: Sequence[Call], outputs: Tensor, residuals: Tensor, many: int) -> list[LayerScores]:
    """Return scores of layers as factors, draw after draw along the rows; layers without influence are left out."""
    if not calls:
        return []
    found: list[list[Tensor]] = [[] for _ in calls]
    for residual in residuals:
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            [outputs], [call.outputs for call in calls], [residual], retain_graph=True, allow_unused=True
        )
        for parts, gradient in zip(found, gradients, strict=True):
            parts += [] if gradient is None else [gradient.detach()]
    scores = []
    for call, parts in zip(calls, found, strict=True):
        if not parts:
            continue
        rows = many if len(call.inputs) == len(outputs) else len(call.inputs)
        inputs = call.inputs[:rows].reshape(rows, -1, call.inputs.shape[-1])
        if call.layer.bias is not None:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :, :1])], dim=2)
        gradient = torch.cat([part[:rows].reshape(rows, -1, part.shape[-1]) for part in parts])
        scores.append(LayerScores(call.layer.weight, call.layer.bias, inputs.repeat(len(parts), 1, 1), gradient))
    return scores


def _single_scores(parameters: Sequence[Tensor], outputs: Tensor, residuals: Tensor, many: int) -> dict[Tensor, Tensor]:
    """Return score rows of any parameters, from one vectorised backward pass per example and draw."""
    if not parameters:
        return {}
    draws, rows = len(residuals), torch.arange(many, device=outputs.device)
    units = residuals.new_zeros(draws, many, *outputs.shape)  # draw d, example i: zero but for the row of i
    units[:, rows, rows] = residuals[:, :many]
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        [outputs], list(parameters), [units.flatten(0, 1)], retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    found = zip(parameters, gradients, strict=True)
    return {own: one.detach().reshape(draws * many, -1) for own, one in found if one is not None}


class Observed:
    """An objective whose optimiser is shown what the model predicts; implements the role `Objective`.

    The loss is the objective's own, to the bit. For the objective of a learner whose optimiser is a `NaturalGradient`.
    Where a learner takes a batch in slices, the last slice is what is observed.

    Args:
        objective: The loss.
        optimizer: Learns from what is observed; the same that the learner steps.
        family: How outcomes scatter around the outputs.
        output: Name of the submodule whose output is observed; empty: the model itself. The name of a decoder gives
            the predictive matrix of a variational autoencoder, that of an encoder, with `NormalPosterior`, the
            ordinary one.

    Raises:
        ConfigError: In a call, if the model has no such submodule, it gave no output or several, or the model's
            tables are spread over ranks.
    """

    def __init__(
        self, objective: Objective, optimizer: NaturalGradient, *, family: Family | None = None, output: str = ""
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.family, self.output = family or Bernoulli(), output

    def spec(self) -> Mapping[str, str]:
        """Return what the objective says about a published version."""
        own = getattr(self.objective, "spec", None)
        return dict(own()) if callable(own) else {}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch; where a step wants it, show the optimiser the outputs."""
        if not self.optimizer.wants_observation() or not torch.is_grad_enabled():
            return self.objective(model, batch)
        several = any(getattr(getattr(module, "ranks", None), "size", 1) > 1 for module in model.modules())
        require(not several, "Observed, model", got="tables on several ranks", expected="one process",
                do="Each rank would hold a matrix of its own. Use a plain optimiser there.")  # fmt: skip
        modules = dict(model.named_modules())
        known_name("Observed.output", self.output, list(modules))
        outputs: list[Tensor] = []
        hook = modules[self.output].register_forward_hook(lambda module, given, output: outputs.append(output))
        try:
            with self.optimizer.recording() as tape:
                loss = self.objective(model, batch)
        finally:
            hook.remove()
        require(len(outputs) == 1, f"Observed.output '{self.output}'", got=f"{len(outputs)} outputs in one call",
                expected="one", do="Name a submodule that runs once per batch.")  # fmt: skip
        if bool(torch.isfinite(loss.total.detach())):  # whoever learns refuses the step
            self.optimizer.observe(tape, outputs[0], self.family)
        return loss
