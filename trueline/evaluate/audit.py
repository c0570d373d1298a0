"""`audit`: what an assumed order is worth. Comparisons that nobody judged are held against somebody who judges.

    compared = judge(drawn, ByGenerator((best, fair, poor)))
    audit(compared, Compare(by=Annotator(...)), sample=200)         a judge, asked about 200 prompts' pairs
    audit(compared, world.Gold())                                   a critic that scores
    audit(compared, labels)                                         groups with people's preferences (or scores)

Agreement is how often the judge prefers the answer that was assumed to be better, ties half, abstentions left out; its
interval is over prompts. It is told per rule (why the comparison was believed: size, shots, demonstrations, or several
at once), per pair of generators, and beside how often the judge prefers the *longer* answer, the baseline that any
order of chatty models has to beat. A rule whose interval holds one half says nothing that this sample can show; one
that lies below is wrong here, and the run warns of it.

Files: `report.json` (an `Audit`), `table.txt`, and `pairs.jsonl` (each pair with the assumed preference first, then
what the judge said).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from trueline.errors import UserError, closest
from trueline.evaluate import plain
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.statistics import Interval, mean_interval, per_prompt
from trueline.evaluate.table import within
from trueline.feedback.protocol import Critic, held_open, metering, require_critic, unfit
from trueline.pipeline import Work, stage
from trueline.records import Group, Preference, Record, content_hash, encode, read_jsonl
from trueline.store import Groups, Report, shards

log = logging.getLogger("trueline")

PAIRS = "pairs.jsonl"


class Agreement(Record, frozen=True):
    """How far a judge shares one belief. pairs: those that it decided or called a tie. longer: the share of pairs whose
    assumed better answer is the longer one (of equal length half)."""

    name: str
    pairs: int
    agreement: Interval
    ties: int = 0
    abstained: int = 0
    longer: float | None = None


class Author(Record, frozen=True):
    """One generator: its answers, those compared, those set aside by reason, and mean characters of the rest."""

    name: str
    answers: int
    compared: int
    set_aside: dict[str, int] = {}
    characters: float | None = None


class Audit(Record, frozen=True):
    """What was found: `report.json`. longer: how often the judge prefers the longer answer, on the same pairs."""

    assumed: str
    judge: str
    prompts: int
    overall: Agreement
    rules: tuple[Agreement, ...]
    generators: tuple[Agreement, ...]
    authors: tuple[Author, ...]
    longer: Interval


def _estimate(compared: Groups, by: Critic | Groups, sample: int = 0, **_: Any) -> dict[str, int]:
    if isinstance(by, Groups):
        return {}
    require_critic(by, "audit(by)")
    known = compared.count
    groups, samples = known.get("groups", known.get("prompts", 0)), known.get("samples", 0)
    each = samples / groups if groups else 0
    asked = min(sample, groups) if sample else groups
    pairs = round(asked * max(each * (each - 1) / 2, 0))
    return {"pairs": pairs, "critic_calls": by.calls(pairs, 2 * pairs)}


@stage(Report, rev=1, label="audit", estimate=_estimate)
def audit(work: Work, compared: Groups, by: Critic | Groups, assumed: str = "", sample: int = 0, seed: int = 0) -> None:
    """How far `by` agrees with the comparisons of `compared` that critic `assumed` made.

    by: a critic that compares or scores, or groups that hold such labels already: their prompts and texts say which
    answers are meant, and the last preference on a pair (else the last scores) counts. assumed: "" is the one critic
    that compared anything. sample: so many prompts are audited, drawn by `seed`; 0: all.

    Raises `UserError` where nothing was compared, where several critics did and none is named, and where the labels
    are of none of the pairs.
    """
    if not isinstance(by, Groups):
        require_critic(by, "audit(by)")
    groups = list(compared.read())
    name = assumer(groups, assumed)
    chosen = drawn([group for group in groups if any(p.by == name for p in group.preferences)], sample, seed)
    pairs = [pair for group in chosen for pair in pairs_of(group, name)]
    if isinstance(by, Groups):
        verdict, judge = labelled(by), by.name
        said: Iterable[Group] = (verdict(pair) for pair in pairs)
        judged = list(said)
        with open(work.dir / PAIRS, "wb") as file:
            file.writelines(encode(group) for group in judged)
    else:
        judged, judge = asked(work, pairs, by), by.name
    result = find(judged, groups, name, judge)
    if not result.overall.pairs:
        got = f"it says nothing of the {len(pairs)} pairs"
        raise UserError(f"audit by {judge}", got, "preferences or scores of the same answers to the same prompts")
    for one in result.rules:
        if one.agreement.high is not None and one.pairs > 1 and one.agreement.high < 0.5:
            log.warning("%s: the rule %s is wrong more often than right (%s)", judge, one.name, _share(one.agreement))
    write_figures(work, result)
    (work.dir / "table.txt").write_text(draw(result), encoding="utf-8")
    work.count("prompts", result.prompts)
    work.count("pairs", len(pairs))
    work.count("abstained", result.overall.abstained)


def asked(work: Work, pairs: Sequence[Group], by: Critic) -> list[Group]:
    """The pairs, judged; in shards, so that a killed run asks little twice."""

    def process(part: Sequence[Group]) -> list[Group]:
        with metering() as metered:
            said = by([msgspec.structs.replace(pair, preferences=()) for pair in part])
        for name, n in metered.items():
            work.count(name, n)
        return [
            msgspec.structs.replace(now, preferences=(*was.preferences, *now.preferences))
            for was, now in zip(part, said, strict=True)
        ]

    with held_open(by):
        shards(work, pairs, process, out=PAIRS)
    return list(read_jsonl(work.dir / PAIRS, Group))


def assumer(groups: Iterable[Group], wanted: str) -> str:
    """The critic whose comparisons are audited."""
    names = Counter(p.by for group in groups for p in group.preferences)
    if wanted and wanted not in names:
        raise UserError("audit(assumed=...)", f'nothing was compared by "{wanted}"', "", closest(wanted, list(names)))
    if not names:
        cure = "Run judge(drawn, ByGenerator(tiers)) first."
        raise UserError("audit(compared)", "nothing was compared", "groups with preferences", cure)
    if not wanted and len(names) > 1:
        raise UserError("audit(assumed=...)", f"{', '.join(names)} all compared", "the one that is audited")
    return wanted or next(iter(names))


def drawn(groups: Sequence[Group], n: int, seed: int) -> list[Group]:
    """`n` groups, the same whatever order they stand in; all with 0."""
    if n < 0:
        raise UserError("audit(sample=...)", f"got {n}", "a number of prompts, or 0 for all")
    lots = sorted(groups, key=lambda group: content_hash([seed, group.prompt.id], 64))
    kept = {group.prompt.id for group in (lots[:n] if n else lots)}
    return [group for group in groups if group.prompt.id in kept]


def pairs_of(group: Group, by: str) -> Iterator[Group]:
    """One group of two completions per decided comparison of critic `by`, the better one first."""
    for one in group.preferences:
        if one.by == by and one.p is not None and one.p != 0.5:
            sides = (one.left, one.right) if one.p > 0.5 else (one.right, one.left)
            believed = Preference(0, 1, max(one.p, 1 - one.p), by, raw=one.raw)
            yield Group(group.prompt, tuple(group.completions[i] for i in sides), preferences=(believed,))


def labelled(labels: Groups) -> Callable[[Group], Group]:
    """What groups that were labelled already say of a pair, as one more preference on it."""
    table: dict[tuple[Any, str, str], float | None] = {}
    for group in labels.read():
        texts = [completion.text for completion in group.completions]
        for i, j, p in _labels(group):
            table[group.prompt.messages, texts[i], texts[j]] = p
            table[group.prompt.messages, texts[j], texts[i]] = None if p is None else 1 - p

    def verdict(pair: Group) -> Group:
        key = (pair.prompt.messages, pair.completions[0].text, pair.completions[1].text)
        return pair.with_preferences([Preference(0, 1, table.get(key), labels.name)])

    return verdict


def _labels(group: Group) -> Iterator[tuple[int, int, float | None]]:
    """(one, other, probability that the one is better): preferences where there are any, else what scores say."""
    for one in group.preferences:
        yield one.left, one.right, one.p
    scores = [] if group.preferences else group.scores()
    for i, first in enumerate(scores):
        for j, second in enumerate(scores[i + 1 :], i + 1):
            yield i, j, by_score(first, second)


def by_score(first: float | None, second: float | None) -> float | None:
    """What two scores say of two answers: 1, 0, 1/2, or None where one is missing.

    >>> by_score(0.7, 0.2), by_score(0.5, 0.5 + 1e-12), by_score(None, 1.0)
    (1.0, 0.5, None)
    """
    if first is None or second is None:
        return None
    gap = round(first - second, 9)  # sums of weights differ in their last bits between answers worth the same
    return 0.5 if gap == 0 else float(gap > 0)


def said_of(pair: Group) -> float | None:
    """The judge's probability that the assumed better answer, which stands first, is better."""
    for one in reversed(pair.preferences[1:]):
        return one.p if one.p is None or one.left == 0 else 1 - one.p
    return by_score(*pair.scores())


def rule_of(preference: Preference) -> str:
    """What a comparison is believed by: the names of its reasons.

    >>> rule_of(Preference(0, 1, 1.0, raw=("size: a (7e+09) > b (1e+09)", "against shots: 1 < 5")))
    'size + against shots'
    """
    return " + ".join(reason.partition(":")[0] for reason in preference.raw) or "not said"


def find(judged: Sequence[Group], groups: Sequence[Group], assumed: str, judge: str) -> Audit:
    """The figures of judged pairs; `groups` are all that was generated."""
    by_rule: dict[str, list[Group]] = {}
    by_authors: dict[str, list[Group]] = {}
    for pair in judged:
        better, worse = pair.completions
        by_rule.setdefault(rule_of(pair.preferences[0]), []).append(pair)
        by_authors.setdefault(f"{better.author} > {worse.author}", []).append(pair)
    return Audit(
        assumed, judge, len({pair.prompt.id for pair in judged}), agreement("all", judged),
        tuple(agreement(name, of) for name, of in sorted(by_rule.items(), key=lambda x: (x[0].count("+"), x[0]))),
        tuple(agreement(name, of) for name, of in by_authors.items()),
        authors(groups, assumed), over_prompts(judged, longer_preferred),
    )  # fmt: skip


def agreement(name: str, pairs: Sequence[Group]) -> Agreement:
    """One row: how far the judge shares the belief that these pairs have in common."""
    said = [said_of(pair) for pair in pairs]
    known = [p for p in said if p is not None]
    ahead = [_half(*(len(c.text) for c in pair.completions)) for pair in pairs]
    return Agreement(
        name, len(known), over_prompts(pairs, said_of), sum(p == 0.5 for p in known), len(said) - len(known),
        sum(ahead) / len(ahead) if ahead else None,
    )  # fmt: skip


def over_prompts(pairs: Sequence[Group], of: Callable[[Group], float | None]) -> Interval:
    """The mean of a number per pair, over prompts."""
    return mean_interval(list(per_prompt([of(p) for p in pairs], [p.prompt.id for p in pairs]).values()))


def longer_preferred(pair: Group) -> float | None:
    """The judge's probability that the longer answer of a pair is better; None where they are of one length."""
    p, (first, second) = said_of(pair), (len(completion.text) for completion in pair.completions)
    return None if p is None or first == second else p if first > second else 1 - p


def _half(first: int, second: int) -> float:
    return 0.5 if first == second else float(first > second)


def authors(groups: Sequence[Group], assumed: str) -> tuple[Author, ...]:
    """What became of each generator's answers."""
    answers, compared = Counter[str](), Counter[str]()
    aside: dict[str, Counter[str]] = {}
    lengths: dict[str, list[int]] = {}
    for group in groups:
        used = {i for p in group.preferences if p.by == assumed for i in (p.left, p.right)}
        for i, completion in enumerate(group.completions):
            name, said = completion.author, group.feedback[i] if group.feedback else ()
            answers[name] += 1
            compared[name] += i in used
            if unfit(said):
                label = next(f.label for f in reversed(said) if f.label is not None)
                aside.setdefault(name, Counter())[label] += 1
            else:
                lengths.setdefault(name, []).append(len(completion.text))
    return tuple(
        Author(name, n, compared[name], dict(aside.get(name, {})), _mean(lengths.get(name, [])))
        for name, n in answers.items()
    )


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def draw(result: Audit) -> str:
    """The tables: by rule, by generators, and what became of the answers."""
    rows = [_row(result.overall), [], *(_row(one) for one in result.rules), []]
    rows += [_row(one) for one in result.generators]
    notes = [
        f"Comparisons believed by {result.assumed}, held against {result.judge} on {result.prompts} prompts.",
        "agree: where the judge prefers the answer assumed to be better, ties half; 95 % interval over prompts; "
        f"chance is 50. The longer answer of these pairs is preferred in {_share(result.longer)} %.",
        "longer %: pairs whose assumed better answer is the longer one.",
    ]
    first = plain.table(["rule, or generators", "pairs", "agree %", "longer %"], rows, notes=notes)
    told = [
        [one.name, str(one.answers), str(one.compared), _number(one.characters), _reasons(one.set_aside)]
        for one in result.authors
    ]
    return first + "\n" + plain.table(["generator", "answers", "compared", "characters", "set aside"], told)


def _row(one: Agreement) -> list[str]:
    longer = "–" if one.longer is None else f"{100 * one.longer:.0f}"
    return [one.name, str(one.pairs), _share(one.agreement), longer]


def _share(value: Interval) -> str:
    return within(value, 100, 1)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _reasons(set_aside: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {n}" for label, n in sorted(set_aside.items(), key=lambda x: -x[1])) or "none"


def read(report: Report) -> Audit:
    """The result of a made `audit`."""
    return read_figures(report, Audit)
