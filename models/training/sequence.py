"""Training of the recommender's network: every click of a session predicts the next one, against sampled other items."""

# torch calls the two halves of an autograd function untyped.
# mypy: disable-error-code="no-untyped-call,no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.features import sessions
from models.recommender.network import RecommenderModel

WIDTH: Final = 100
HEADS: Final = 4
LENGTH: Final = sessions.LENGTH  # a network reads what is kept of a session
DROPOUT: Final = 0.3
EPOCHS: Final = 8
EXAMPLES_PER_STEP: Final = 512
NEGATIVES: Final = 2048
LEARNING_RATE: Final = 4e-3
# Windows of a longer session overlap by as many clicks, so that each example has at least these before it.
CONTEXT: Final = 10
# Cosines times the scale stay below; exponents are taken from here down and cannot overflow.
LOGIT_SHIFT: Final = 20.0

Int64 = NDArray[np.int64]
AfterEpoch = Callable[[int, RecommenderModel], None]
Tell = Callable[[float], None]


class Windows:
    """Stretches of sessions that fit the network, and the clicks in each that are examples.

    Args:
        items: Integer[C] item indices, session after session.
        offsets: int64[S + 1]; session s is items[offsets[s]:offsets[s + 1]].
    """

    def __init__(self, items: NDArray[Any], offsets: Int64) -> None:
        self._items = np.append(items.astype(np.int64), 0)
        begins, counts, firsts = [], [], []
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            left = end - begin - 1  # clicks that are followed
            if left < 1:
                continue
            first, done = begin, 0
            while done < left:
                count = min(LENGTH if done == 0 else LENGTH - CONTEXT, left - done)
                first = max(begin, begin + done + count - LENGTH)
                begins.append(first)
                counts.append(begin + done + count - first)
                firsts.append(begin + done - first)
                done += count
        self.begin, self.count = np.array(begins, np.int64), np.array(counts, np.int64)
        self.first = np.array(firsts, np.int64)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Int64, NDArray[np.bool_], Int64]]:
        """Yield (items int64[B, L], examples bool[B, L], next items int64 of the examples), like lengths together."""
        order = rng.permutation(len(self.begin))
        order = order[np.argsort(self.count[order] + 1.5 * rng.random(len(order)), kind="stable")]
        examples = np.cumsum(self.count[order] - self.first[order])
        cuts = np.searchsorted(examples, np.arange(EXAMPLES_PER_STEP, examples[-1], EXAMPLES_PER_STEP))
        parts = [part for part in np.split(order, cuts) if len(part)]
        for place in rng.permutation(len(parts)):
            rows = parts[place]
            step = np.arange(self.count[rows].max())
            inside = step < self.count[rows, None]
            where = np.where(inside, self.begin[rows, None] + step, len(self._items) - 2)
            examples_here = inside & (step >= self.first[rows, None])
            yield self._items[where], examples_here, self._items[where + 1][examples_here]

    def __len__(self) -> int:
        """Return the number of examples."""
        return int((self.count - self.first).sum())


class LogSumOfOthers(torch.autograd.Function):
    """log of the sum of exp(logit - log inclusion - LOGIT_SHIFT) over sampled items, but for the target itself.

    Products are in bfloat16, and the exponentials are kept for the backward pass: four passes over memory in place of twelve.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, sampled: Tensor, shift: Tensor, row: Tensor, column: Tensor) -> Tensor:
        left, right = vectors.bfloat16(), sampled.bfloat16()
        exponentials = torch.sub(left @ right.t(), shift).exp_()
        exponentials[row, column] = 0.0
        total = exponentials.sum(1) + 1e-20
        ctx.save_for_backward(left, right, exponentials, total)
        return total.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        left, right, exponentials, total = ctx.saved_tensors
        slope = torch.mul(exponentials, (gradients[0] / total)[:, None]).bfloat16()
        return (slope @ right).float(), (slope.t() @ left).float(), None, None, None


class Sampler:
    """Items drawn by the square root of their clicks, with the log probability of being in a step's draw.

    Args:
        counts: Integer[N] clicks of each item; an item without any is never drawn.
    """

    def __init__(self, counts: NDArray[Any], rng: np.random.Generator) -> None:
        share = np.sqrt(counts.astype(np.float64))
        share /= share.sum()
        self._cumulated, self._rng = np.cumsum(share), rng
        with np.errstate(divide="ignore"):
            self.log_inclusion = np.log(-np.expm1(NEGATIVES * np.log1p(-np.minimum(share, 1 - 1e-9)))).astype(
                np.float32
            )
        self._place = np.full(len(counts), -1, np.int64)

    def draw(self, targets: Int64) -> tuple[Int64, Int64, Int64]:
        """Return the distinct items drawn, and (example, place among them) of the targets that are among them."""
        drawn = np.searchsorted(self._cumulated, self._rng.random(NEGATIVES) * self._cumulated[-1], side="right")
        items = np.unique(np.minimum(drawn, len(self._place) - 1))
        self._place[items] = np.arange(len(items))
        place = self._place[targets]
        self._place[items] = -1
        hit = np.flatnonzero(place >= 0)
        return items, hit, place[hit]


class RowAdam:
    """Adam that moves only the rows of a table that a step read.

    Source:
        Kingma and Ba (2015), with rows as in torch's SparseAdam.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._mean, self._square = torch.zeros_like(table), torch.zeros_like(table)
        self._steps = 0

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        self._steps += 1
        mean = self._mean[rows].mul_(0.9).add_(gradient, alpha=0.1)
        square = self._square[rows].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        self._mean[rows], self._square[rows] = mean, square
        scale = (square / (1 - 0.99**self._steps)).sqrt_().add_(1e-8)
        self._table[rows] -= learning_rate * (mean / (1 - 0.9**self._steps)) / scale


def fit(
    items: NDArray[Any],
    offsets: Int64,
    vocabulary: int,
    seed: int,
    tell: Tell,
    *,
    stop_after: int | None = None,
    after_epoch: AfterEpoch | None = None,
) -> RecommenderModel:
    """Return a network trained on sessions.

    Args:
        items: Integer[C] item indices, session after session.
        offsets: int64[S + 1]; session s is items[offsets[s]:offsets[s + 1]].
        vocabulary: Number of items (N).
        seed: Fixes weights, order and samples; the caller sets torch to one thread.
        tell: Called with the fraction done.
        stop_after: Epochs to run of a schedule that is laid out for EPOCHS; None runs all.
        after_epoch: Called with the number of epochs done and the model as it would be used.

    Source:
        Unbiased softmax over a sample by inclusion probabilities, Horvitz and Thompson (1952).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    windows = Windows(items, offsets)
    sampler = Sampler(np.bincount(items, minlength=vocabulary), rng)
    shift = torch.from_numpy(sampler.log_inclusion) + LOGIT_SHIFT
    model = RecommenderModel(vocabulary, WIDTH, HEADS, LENGTH)
    encoder = model.encoder
    encoder.dropout.p = DROPOUT
    table = model.embedding.detach().clone()  # rows of any length: only their direction is used
    optimiser = torch.optim.AdamW(encoder.parameters(), weight_decay=0.0, betas=(0.9, 0.99))
    rows = RowAdam(table)
    epochs = EPOCHS if stop_after is None else stop_after
    steps, step = EPOCHS * max(1, len(windows) // EXAMPLES_PER_STEP), 0
    for epoch in range(epochs):
        encoder.train()
        for clicks, examples, targets in windows.batches(rng):
            done = min(1.0, step / steps)
            rate = LEARNING_RATE * min(1.0, 10 * done + 1 / steps) * max(0.02, min(1.0, (1 - done) / 0.8))
            drawn, hit, place = sampler.draw(targets)
            used, where = np.unique(np.concatenate([clicks.ravel(), targets, drawn]), return_inverse=True)
            of_clicks, of_targets, of_drawn = np.split(where, np.cumsum([clicks.size, len(targets)]))
            used_rows = torch.from_numpy(used)
            leaf = table[used_rows].requires_grad_()
            unit = nn.functional.normalize(leaf, dim=1)
            asked = torch.arange(clicks.shape[1]).expand(len(clicks), -1)
            vectors = encoder(unit[torch.from_numpy(of_clicks)].view(*clicks.shape, WIDTH), asked)
            vectors = vectors[torch.from_numpy(examples)] * encoder.log_scale.exp()
            of_target = (vectors * unit[torch.from_numpy(of_targets)]).sum(1)
            others = LogSumOfOthers.apply(
                vectors,
                unit[torch.from_numpy(of_drawn)],
                shift[torch.from_numpy(drawn)],
                torch.from_numpy(hit),
                torch.from_numpy(place),
            )
            loss = (torch.logaddexp(others + LOGIT_SHIFT, of_target) - of_target).mean()
            optimiser.param_groups[0]["lr"] = rate / 2
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            assert leaf.grad is not None
            rows.step(used_rows, leaf.grad, rate)
            step += 1
            if step % 20 == 0:
                tell(min(1.0, step / steps * EPOCHS / epochs))
        encoder.eval()
        with torch.no_grad():
            model.embedding.copy_(nn.functional.normalize(table, dim=1))
        if after_epoch is not None:
            after_epoch(epoch + 1, model)
    model.requires_grad_(False)
    return model
