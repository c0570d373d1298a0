"""`reviews`: a duel judged by scores, counted as the Vicuna evaluation counts: wins, ties and losses per review.

    fought = duel(mine, theirs, scores.vicuna(judge))
    reviews(fought, TwoScores())

Every question is reviewed twice, once in each order, and both ways of counting stand in the table: per *review* (160
for 80 questions), where a judge that likes a position wins one and loses one, and per *question*, where it ties. A
reply that could not be read is a failure, which is neither a tie nor a score. `failures="tie"` counts it as ALMoST's
code does, as a tie with -1 points for each side.

Files: `report.json` (a `Reviews`), `table.txt`.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import msgspec

from trueline.errors import UserError
from trueline.evaluate.duel import PAIRS, Duel
from trueline.evaluate.figures import read_figures, write_figures
from trueline.pipeline import Work, stage
from trueline.records import Group, Record, read_jsonl
from trueline.store import Report

Failures = Literal["apart", "tie"]


@runtime_checkable
class ScoreReader(Protocol):
    """What reads the scores of the answers shown first and second off a reply."""

    def scores(self, reply: str) -> tuple[float, float] | None: ...


class Count(Record, frozen=True):
    """Wins, ties and losses of the left side, and what was not decided."""

    wins: int = 0
    ties: int = 0
    losses: int = 0
    failed: int = 0


class Reviewed(Record, frozen=True):
    """One category, or all ("all"). left, right: sums of scores over the reviews that have scores, `scored` of them."""

    category: str
    reviews: Count
    questions: Count
    left: float = 0.0
    right: float = 0.0
    scored: int = 0


class Reviews(Record, frozen=True):
    """Who met whom, and the counts: all, then by category."""

    left: str
    right: str
    failures: Failures
    counts: tuple[Reviewed, ...]


@stage(Report, rev=1, label="reviews")
def reviews(work: Work, fought: Report, parser: Any, failures: Failures = "apart", category: str = "category") -> None:
    """The reviews of a duel that asked for scores in both orders.

    parser: what the duel's annotator reads replies with. failures: replies that could not be read stand "apart", or
    count as a "tie". category: the field of a prompt's meta to count by. Raises `UserError` for a duel of one order.
    """
    if not isinstance(parser, ScoreReader):
        raise UserError("reviews(parser)", f"got {parser!r}", "a parser of scores, such as TwoScores()")
    if failures not in get_args(Failures):
        raise UserError("reviews(failures=...)", f"got {failures!r}", " or ".join(get_args(Failures)))
    told = read_figures(fought, Duel)
    pairs = list(read_jsonl(fought.path / PAIRS, Group))
    by: dict[str, list[Group]] = defaultdict(list)
    for pair in pairs:
        by[str(pair.prompt.meta.get(category, ""))].append(pair)
    counts = [counted("all", pairs, parser, failures)]
    if len(by) > 1:
        counts += [counted(name, of, parser, failures) for name, of in by.items()]
    found = Reviews(told.left.name, told.right.name, failures, tuple(counts))
    write_figures(work, found)
    (work.dir / "table.txt").write_text(table(found), encoding="utf-8")
    for name in ("wins", "ties", "losses", "failed"):
        work.count(name, getattr(counts[0].reviews, name))


def read_reviews(report: Report) -> Reviews:
    """The result of a made `reviews`."""
    return read_figures(report, Reviews)


def counted(name: str, pairs: Sequence[Group], parser: ScoreReader, failures: Failures = "apart") -> Reviewed:
    """Judged pairs (the left answer is completion 0) as counts. Raises `UserError` for a pair judged in one order.

    Worked: 9 to 8 for the left answer shown first, 7 to 7 shown second: one win and one tie of two reviews, a win of
    the one question; sums 16 and 15.
    """
    verdicts: list[float | None] = []
    questions: list[float | None] = []
    sums = [0.0, 0.0]
    scored = 0
    for pair in pairs:
        said = pair.preferences[-1]
        if not said.orders and not (said.p == 0.5 and not said.raw):  # equal answers are a tie that nobody reviewed
            raise UserError("reviews", f"{pair.prompt.id} was judged in one order", "both: Compare(by=..., orders=2)")
        wins = [p if failures == "apart" or p is not None else 0.5 for p in said.orders]
        verdicts += wins
        decided = [p for p in wins if p is not None]
        questions.append(sum(decided) / len(decided) if len(decided) == len(wins) and wins else said.p)
        for at, reply in enumerate(said.raw):
            found = parser.scores(reply) if said.orders[at] is not None else None
            if found is None and failures == "apart":
                continue
            first, second = found or (-1.0, -1.0)
            shown = (first, second) if at == 0 else (second, first)
            sums = [total + score for total, score in zip(sums, shown, strict=True)]
            scored += 1
    return Reviewed(name, count(verdicts), count(questions), sums[0], sums[1], scored)


def count(wins: Iterable[float | None]) -> Count:
    """Probabilities that the left side wins, counted.

    >>> count([1.0, 0.5, None, 0.25])
    Count(wins=1, ties=1, losses=1, failed=1)
    """
    kinds = [None if p is None else (p > 0.5) - (p < 0.5) for p in wins]
    return Count(kinds.count(1), kinds.count(0), kinds.count(-1), kinds.count(None))


def table(found: Reviews) -> str:
    """The counts as plain text."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{found.left} against {found.right}: wins, ties, losses, failed"
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold", title_justify="left", pad_edge=False)
    drawn.add_column("", overflow="fold")
    for heading in ("per review", "per question", "mean score", "its rival's"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in found.counts:
        both = (" ".join(str(n) for n in msgspec.structs.astuple(of)) for of in (row.reviews, row.questions))
        means = (f"{total / row.scored:.2f}" if row.scored else "–" for total in (row.left, row.right))
        drawn.add_row(row.category or "(none)", *both, *means)
    console = Console(file=io.StringIO(), width=100, color_system=None, legacy_windows=False)
    console.print(drawn)
    note = {"apart": "Failed: replies without readable scores.", "tie": "Replies without readable scores are ties."}
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + f"\n{note[found.failures]}\n"
