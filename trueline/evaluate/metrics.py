"""What scores are worth: accuracy, Matthews, F1, correlations, the mass of the true answers, with n and interval.

An item's outcome is a *distribution* over its options, not an index: the options that share the highest value share the
prediction. So a tie counts half (a third, a quarter), a constant head scores chance on every benchmark whatever the
order of its options, and "the first wins" happens nowhere. An item with a NaN among its values was not scored; how it
counts is stated at each metric and how many there were in every summary.

Accuracy has a Wilson interval; the other metrics are functions of a table of (prediction, label) cells and have a
bootstrap over items. Nothing here reads files or knows a benchmark.

Shape suffixes: N items, U different cells of a table, K classes, B bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from trueline.errors import UserError, closest
from trueline.evaluate.protocol import Item, Scores, chance
from trueline.evaluate.statistics import LEVEL, SEED, Floats, Interval, mean_interval, wilson
from trueline.records import Record, content_hash

RESAMPLES = 2000
_CHUNK_CELLS = 4_000_000  # resampled cells held at once: bounds memory, changes no result


class Outcome(Record, frozen=True):
    """What a reader's scores say of one item; one line of a per-item file.

    values: one per option, None for NaN (a file says null for minus infinity too). winners: the options that share the
    highest value; empty where the item was not scored. hit: the share of the prediction that is right (or accepted),
    from 0 to 1; None where there is no label, or the label is no option. tokens, text: as the reader gave them.
    """

    item: str
    values: tuple[float | None, ...]
    winners: tuple[int, ...]
    answer: int | float | None = None
    hit: float | None = None
    group: str = ""
    accepted: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    text: str = ""


class Metric(Record, frozen=True):
    """A number with its interval; `note` says what was done where the number is not defined by itself."""

    name: str
    interval: Interval
    note: str = ""


class Summary(Record, frozen=True):
    """What a reader's scores of a benchmark are worth.

    metrics: the benchmark's, in its order; empty where no item has a label. groups: the first metric by subset, where
    there are several. chance: expected accuracy of guessing. right: items whose right option alone had the highest
    value. tied: items where it shared it. unscored: items with a NaN. unlabelled: items without a label, in no metric.
    """

    items: int
    metrics: tuple[Metric, ...] = ()
    groups: dict[str, Metric] = {}
    chance: float | None = None
    right: int = 0
    tied: int = 0
    unscored: int = 0
    unlabelled: int = 0

    def metric(self, name: str) -> Metric:
        """One metric; KeyError where it was not measured."""
        return {metric.name: metric for metric in self.metrics}[name]


def outcomes(items: Iterable[Item], scores: Iterable[Scores]) -> Iterator[Outcome]:
    """Items with their scores, in order. Raises `ValueError` where they are not of the same items and options."""
    for item, score in zip(items, scores, strict=True):
        if item.id != score.item:
            raise ValueError(f"scores of {score.item} stand where those of {item.id} should")
        if len(score.values) != len(item.options):
            raise ValueError(f"{len(score.values)} values for the {len(item.options)} options of {item.id}")
        yield outcome(item, score)


def outcome(item: Item, score: Scores) -> Outcome:
    """One item's outcome.

    >>> outcome(Item("q", (), ("a", "b", "c"), 0), Scores("q", (2.0, 2.0, 1.0))).hit
    0.5
    """
    best = winners(score.values)
    hit = None
    if isinstance(item.answer, int) and item.options:
        right = {item.answer, *item.accepted}
        hit = len(right.intersection(best)) / len(best) if best else 0.0
    values = tuple(None if math.isnan(value) else value for value in score.values)
    return Outcome(
        item.id, values, best, item.answer, hit, item.group, item.accepted, tuple(score.tokens), score.text
    )  # fmt: skip


def winners(values: Sequence[float]) -> tuple[int, ...]:
    """The options that share the highest value; none where a value is NaN.

    >>> winners((0.0, 3.0, 3.0)), winners((1.0, float("nan")))
    ((1, 2), ())
    """
    if not values or any(math.isnan(value) for value in values):
        return ()
    best = max(values)
    return tuple(index for index, value in enumerate(values) if value == best)


def pick(found: Outcome) -> int:
    """One option, where one has to be named (a server's file): a winner, by a hash of the item among several.

    An item that was not scored is picked for among all its options. Not the first: a dead head would inherit the
    habits of whoever ordered the options.
    """
    among = found.winners or tuple(range(len(found.values)))
    return among[int(content_hash(found.item), 16) % len(among)]


def summarize(found: Iterable[Outcome], names: Sequence[str]) -> Summary:
    """The metrics `names` of outcomes, over the items that have a label.

    Raises `UserError` for an unknown metric, an empty benchmark, a label without options, and where no labelled item
    was scored at all: that is a broken model, not a bad one.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"the metric {name}", "it is not known", "", closest(name, list(METRICS)))
    every = list(found)
    if not every:
        raise UserError("the benchmark", "it has no items", "at least one")
    labelled = [one for one in every if one.answer is not None]
    unscored = sum(not one.winners for one in every)
    for one in labelled:
        if not one.values:
            raise UserError(f"item {one.item}", "it has a label and no options", "options to choose from")
    if unscored == len(every):
        raise UserError("the scores", f"none of {len(every)} items has a number for each option", "numbers",
                        "Check the model's weights for NaN, and the lengths of the items.")  # fmt: skip
    groups: dict[str, list[Outcome]] = {}
    for one in labelled:
        groups.setdefault(one.group, []).append(one)
    several = len(groups) > 1 and bool(names)
    hits = [one for one in labelled if one.hit is not None]
    return Summary(
        items=len(every),
        metrics=tuple(METRICS[name](labelled) for name in names) if labelled else (),
        groups={group: METRICS[names[0]](rows) for group, rows in groups.items()} if several else {},
        chance=guessing(labelled, names[0]) if names else None,
        right=sum(one.hit == 1 for one in hits),
        tied=sum(0 < (one.hit or 0) < 1 for one in hits),
        unscored=unscored,
        unlabelled=len(every) - len(labelled),
    )


def guessing(labelled: Sequence[Outcome], name: str) -> float | None:
    """What a metric is expected to be for guesses: accuracy 1 over the options, mc2 the true ones over all, else 0."""
    if not labelled or name == "f1":
        return None
    if name == "mc2":
        return sum(len(one.accepted) / len(one.values) for one in labelled) / len(labelled)
    if name in ("accuracy", "ties_hit"):
        return chance(Item(one.item, (), ("",) * len(one.values), one.answer) for one in labelled)
    return 0.0


# --- means over items ------------------------------------------------------------------------------------------------


def accuracy(labelled: Sequence[Outcome]) -> Metric:
    """Mean share of the prediction that is right; an item that was not scored is a miss. Wilson interval."""
    hits = [one.hit for one in labelled if one.hit is not None]
    return Metric("accuracy", wilson(sum(hits), len(hits)), _missed(labelled, "counted as misses"))


def ties_hit(labelled: Sequence[Outcome]) -> Metric:
    """Accuracy with ties as hits, as ALMoST's evaluation of Static HHH counts them: a constant head scores 1.

    >>> ties_hit([Outcome("q", (0.0, 0.0), (0, 1), 0, hit=0.5)]).interval.mean
    1.0
    """
    hits = [float(one.hit > 0) for one in labelled if one.hit is not None]
    return Metric("ties_hit", wilson(sum(hits), len(hits)), _missed(labelled, "counted as misses"))


def mc2(labelled: Sequence[Outcome]) -> Metric:
    """Mean share of exp(value) that the accepted options get; an item that was not scored gets 0. Bootstrap interval.

    TruthfulQA's MC2 where the values are sums of log-probs; of other values (a mean, a reward) it is a softmax alike,
    and comparable only with itself.

    >>> mc2([Outcome("q", (0.0, 0.0, 0.0), (0, 1, 2), 0, accepted=(0, 1))]).interval.mean  # doctest: +ELLIPSIS
    0.6666...
    """
    masses = []
    for one in labelled:
        if not one.winners:
            masses.append(0.0)
            continue
        top = max(value for value in one.values if value is not None)
        parts = [math.exp(value - top) if value is not None and value > -math.inf else 0.0 for value in one.values]
        masses.append(sum(parts[index] for index in one.accepted) / sum(parts))
    return Metric("mc2", mean_interval(masses), _missed(labelled, "counted as 0"))


def _missed(labelled: Sequence[Outcome], how: str) -> str:
    count = sum(not one.winners for one in labelled)
    return f"{count} of {len(labelled)} items without a score, {how}" if count else ""


# --- functions of a table --------------------------------------------------------------------------------------------


def matthews(labelled: Sequence[Outcome]) -> Metric:
    """Matthews correlation of classes (Gorodkin's R_K for more than two); 0 where predictions or labels are constant.

    A tied prediction is shared among its winners, an item that was not scored among the wrong classes.
    """
    labels_N, shares_NK = _classes(labelled)
    note = _missed(labelled, "counted as misses")
    if len(np.unique(shares_NK, axis=0)) == 1 or len(np.unique(labels_N)) == 1:
        note = _joined(note, "constant predictions or labels: no correlation is defined, 0 stands for it")
    table_NC = np.column_stack([labels_N, shares_NK])
    return Metric("matthews", over_table(table_NC, matthews_of), note)


def matthews_of(cells_UC: Floats, weights_BU: Floats) -> Floats:
    """[B] R_K of tables: columns are the label and the K shares of the prediction, weights the rows' numbers."""
    classes_K = np.arange(cells_UC.shape[1] - 1)
    true_UK = (cells_UC[:, :1] == classes_K).astype(np.float64)
    shares_UK = cells_UC[:, 1:]
    n_B = weights_BU.sum(1)
    right_B = weights_BU @ (true_UK * shares_UK).sum(1)
    true_BK, said_BK = weights_BU @ true_UK, weights_BU @ shares_UK
    above_B = right_B * n_B - (true_BK * said_BK).sum(1)
    below_B = (n_B**2 - (said_BK**2).sum(1)) * (n_B**2 - (true_BK**2).sum(1))
    return _quotient(above_B, np.sqrt(np.maximum(below_B, 0.0)))


def f1(labelled: Sequence[Outcome]) -> Metric:
    """F1 of class 1 among two, 2 tp / (2 tp + fp + fn); 0 where nothing is true and nothing said."""
    labels_N, shares_NK = _classes(labelled)
    if shares_NK.shape[1] != 2:
        raise UserError("the metric f1", f"items with {shares_NK.shape[1]} options", "two classes")
    interval = over_table(np.column_stack([labels_N, shares_NK[:, 1]]), f1_of)
    return Metric("f1", interval, _missed(labelled, "counted as misses"))


def f1_of(cells_U2: Floats, weights_BU: Floats) -> Floats:
    """[B] F1 of tables: columns are the label (0 or 1) and the share of the prediction that says 1."""
    hit_B = weights_BU @ (cells_U2[:, 0] * cells_U2[:, 1])
    return _quotient(2 * hit_B, weights_BU @ (cells_U2[:, 0] + cells_U2[:, 1]))


def pearson(labelled: Sequence[Outcome]) -> Metric:
    """Pearson correlation of the predicted number and the label; see `_correlation`."""
    return _correlation("pearson", labelled, pearson_of)


def spearman(labelled: Sequence[Outcome]) -> Metric:
    """Spearman correlation (Pearson of mean ranks) of the predicted number and the label; see `_correlation`."""
    return _correlation("spearman", labelled, spearman_of)


def _correlation(name: str, labelled: Sequence[Outcome], function: Table) -> Metric:
    """The prediction is the mean index of the winners (option i stands for the number i), so a constant head predicts
    one number throughout; no correlation is defined then, 0 stands for it and the note says so. Items that were not
    scored are left out and counted in the note.
    """
    scored = [one for one in labelled if one.winners]
    note = _missed(labelled, "left out")
    pairs_N2 = np.asarray(
        [(sum(one.winners) / len(one.winners), one.answer) for one in scored], dtype=np.float64
    ).reshape(-1, 2)
    if len(scored) and (np.ptp(pairs_N2, axis=0) == 0).any():
        note = _joined(note, "constant predictions or labels: no correlation is defined, 0 stands for it")
    return Metric(name, over_table(pairs_N2, function), note)


def pearson_of(cells_U2: Floats, weights_BU: Floats) -> Floats:
    """[B] weighted Pearson correlation of two columns; 0 where one is constant."""
    return _weighted_correlation(np.broadcast_to(cells_U2.T[:, None], (2, *weights_BU.shape)), weights_BU)


def spearman_of(cells_U2: Floats, weights_BU: Floats) -> Floats:
    """[B] weighted Spearman correlation of two columns, ranks taken anew in every resample; 0 where one is constant."""
    return _weighted_correlation(np.stack([_ranks(column_U, weights_BU) for column_U in cells_U2.T]), weights_BU)


def _ranks(column_U: Floats, weights_BU: Floats) -> Floats:
    """[B, U] mean rank of each cell's value among the weighted rows."""
    values_V, at_U = np.unique(column_U, return_inverse=True)
    counts_BV = np.zeros((len(weights_BU), len(values_V)))
    np.add.at(counts_BV.T, at_U, weights_BU.T)
    return (np.cumsum(counts_BV, axis=1) - (counts_BV - 1) / 2)[:, at_U]


def _weighted_correlation(columns_2BU: Floats, weights_BU: Floats) -> Floats:
    n_B = weights_BU.sum(1)[:, None]
    centred = [x_BU - (weights_BU * x_BU).sum(1, keepdims=True) / n_B for x_BU in columns_2BU]
    spread = [np.sqrt((weights_BU * x_BU**2).sum(1)) for x_BU in centred]
    scale = [np.abs(x_BU).max(initial=1.0) for x_BU in columns_2BU]
    # What a constant column leaves after centring is rounding; dividing by it would give a correlation of noise.
    solid_B = np.logical_and(*(s_B > 1e-9 * size for s_B, size in zip(spread, scale, strict=True)))
    together_B = (weights_BU * centred[0] * centred[1]).sum(1)
    return np.where(solid_B, _quotient(together_B, spread[0] * spread[1]), 0.0)


Table = Callable[[Floats, Floats], Floats]
"""(cells_UC, weights_BU) -> [B]: a statistic of tables that differ in how often each row stands in them."""


def over_table(rows_NC: Floats, function: Table, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """A statistic of N rows with its bootstrap interval (percentiles) and the resamples' standard deviation as `se`."""
    n = len(rows_NC)
    if n == 0:
        return Interval(0)
    cells_UC, counts_U = np.unique(rows_NC, axis=0, return_counts=True)
    mean = float(function(cells_UC, counts_U[None].astype(np.float64))[0])
    if n == 1:
        return Interval(1, mean, None, mean, mean)
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // len(cells_UC))
    parts = [
        function(cells_UC, generator.multinomial(n, counts_U / n, size=min(step, resamples - start)).astype(np.float64))
        for start in range(0, resamples, step)
    ]
    drawn_B = np.concatenate(parts)
    low, high = np.quantile(drawn_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(n, mean, float(drawn_B.std(ddof=1)), float(low), float(high))


def _classes(labelled: Sequence[Outcome]) -> tuple[Floats, Floats]:
    """Labels [N], and each item's prediction as shares over the K classes [N, K]."""
    count = max(len(one.values) for one in labelled)
    shares_NK = np.zeros((len(labelled), count))
    for share_K, one in zip(shares_NK, labelled, strict=True):
        wrong = [index for index in range(len(one.values)) if index != one.answer]
        among = list(one.winners) or wrong
        share_K[among] = 1 / len(among)
    return np.asarray([one.answer for one in labelled], dtype=np.float64), shares_NK


def _quotient(above_B: Floats, below_B: Floats) -> Floats:
    return np.divide(above_B, below_B, out=np.zeros_like(above_B), where=below_B > 0)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


METRICS: Mapping[str, Callable[[Sequence[Outcome]], Metric]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "ties_hit": ties_hit,
        "mc2": mc2,
        "matthews": matthews,
        "f1": f1,
        "pearson": pearson,
        "spearman": spearman,
    }
)
