"""`reward_accuracy`: how often a reward prefers what was preferred, and whether it knows more than length.

    held_out = judge(judge(drawn_elsewhere, ByGenerator(tiers)), Reward(model))
    reward_accuracy(held_out, trained_on=compared)

A reward model learns whatever parts chosen from rejected, and the cheapest thing is length: of the 221 pairs of Static
HHH the longer answer is right in 139. So three numbers stand beside the accuracy: that of the longer answer on the same
pairs, with the paired difference; the accuracy on the pairs whose preferred answer is the *shorter* one, where length
alone scores 0; and how far the reward follows length within a prompt. A reward that is little else is warned of.

Beside it stands how far differences of rewards are the odds that they claim to be (`calibration`), and with group= the
accuracy in each group of prompts: a reward that is right on average may be a coin on what matters.

Held out means held out by *prompt*: one prompt gives several pairs that share answers, and an answer chosen in one is
rejected in another. `trained_on` names the groups that were trained on, and a prompt in both is refused.

Files: `report.json` (a `RewardAccuracy`), `table.txt`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.errors import UserError, closest
from trueline.evaluate import plain
from trueline.evaluate.accuracy import hit
from trueline.evaluate.calibration import Calibration, calibration
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.headline import places, plus
from trueline.evaluate.statistics import Interval, difference, mean_interval, per_prompt, wilson
from trueline.evaluate.table import within
from trueline.fingerprint import added
from trueline.pipeline import Work, stage
from trueline.records import Group, Record
from trueline.store import Groups, Report

log = logging.getLogger("trueline")

FOLLOWS, CORRELATED = 0.95, 0.9
"""From which share of pairs on, or from which correlation with length, a reward is taken to measure length alone."""
ENOUGH = 20
"""Pairs of different length below which nobody is accused."""


class RewardAccuracy(Record, frozen=True):
    """Shares between 0 and 1 over prompts, ties counted half.

    accuracy: where the reward is higher for the preferred answer; longer: where that answer is the longer one in
    characters; gain: accuracy less longer, paired by prompt. shorter: accuracy on the pairs whose preferred answer is
    the shorter one, of which there are `shorter_pairs`. follows: the share of pairs of different length in which the
    reward is higher for the longer answer. correlation: of reward and length, within prompts (Pearson). skipped: pairs
    without a preference or a score. calibration: of sigma(difference) as the chance that the preferred one is better.
    by_group: the accuracy by a field of the prompts' meta.
    """

    reward: str
    preferred_by: str
    pairs: int
    accuracy: Interval
    longer: Interval
    gain: Interval
    shorter: Interval
    shorter_pairs: int
    follows: float | None = None
    correlation: float | None = None
    skipped: int = 0
    warning: str = ""
    calibration: Calibration | None = None
    by_group: dict[str, Interval] = {}


@dataclass(frozen=True)
class Pair:
    """A decided pair, the preferred answer first: rewards and characters; group: of its prompt."""

    prompt: str
    rewards: tuple[float, float]
    characters: tuple[int, int]
    group: str = ""


@stage(Report, rev=1, label="reward-accuracy")
def reward_accuracy(
    work: Work, held_out: Groups, by: str = "", preferred_by: str = "", trained_on: Groups | None = None,
    group: str = added(""),
) -> None:  # fmt: skip
    """How often the scores of critic `by` agree with the preferences of critic `preferred_by` on `held_out`.

    by, preferred_by: "" is the one critic that scored, or compared. trained_on: the groups that the reward model was
    trained on. group: a field of the prompts' meta to part them by. Raises `UserError` where a prompt is in both, where
    several critics spoke and none is named, and where no pair has both a preference and two scores.
    """
    groups = list(held_out.read())
    if trained_on is not None:
        seen = {group.prompt.messages for group in trained_on.read()}
        shared = sum(group.prompt.messages in seen for group in groups)
        if shared:
            raise UserError(
                f"reward_accuracy({held_out.name})", f"{shared} of its {len(groups)} prompts are in {trained_on.name}",
                "prompts that were not trained on", "Part the prompts first: take(prompts, n), then without(...).",
            )  # fmt: skip
    scorers = [f.by for g in groups for of in g.feedback for f in of if f.score is not None]
    by = _one("by", "scored", scorers, by)
    preferred_by = _one("preferred_by", "compared", [p.by for g in groups for p in g.preferences], preferred_by)
    pairs, skipped = decided(groups, by, preferred_by, group)
    if not pairs:
        got = f"none of {skipped} pairs has a preference and two scores"
        raise UserError(f"reward_accuracy({held_out.name})", got, "pairs that were compared and scored")
    result = find(pairs, groups, by, preferred_by, skipped)
    if result.warning:
        log.warning("%s", result.warning)
        work.note("warning", result.warning)
    write_figures(work, result)
    (work.dir / "table.txt").write_text(draw(result), encoding="utf-8")
    work.count("pairs", len(pairs))
    work.count("skipped", skipped)


def _one(field: str, did: str, names: Sequence[str], wanted: str) -> str:
    """The critic that is meant."""
    known = list(dict.fromkeys(names))
    where = f"reward_accuracy({field}=...)"
    if not known:
        raise UserError(where, f"nothing was {did}", f"groups that a critic {did}", "Run judge(groups, critic) first.")
    if wanted and wanted not in known:
        raise UserError(where, f'nothing was {did} by "{wanted}"', "", closest(wanted, known))
    if not wanted and len(known) > 1:
        raise UserError(where, f"{', '.join(known)} all {did}", "the one that is meant")
    return wanted or known[0]


def decided(groups: Sequence[Group], by: str, preferred_by: str, part: str = "") -> tuple[list[Pair], int]:
    """The pairs with a preference and two scores, and how many others there are. part: a field of the prompts' meta.

    Raises `UserError` where no prompt has that field.
    """
    if part and not any(part in group.prompt.meta for group in groups):
        known = sorted({name for group in groups for name in group.prompt.meta})
        raise UserError(
            "reward_accuracy(group=...)", f'no prompt has a field "{part}" in its meta', "", closest(part, known)
        )
    found, skipped = [], 0
    for group in groups:
        scores = group.scores(by)
        for one in group.preferences:
            if one.by != preferred_by:
                continue
            better, worse = (one.left, one.right) if (one.p or 0.0) > 0.5 else (one.right, one.left)
            first, second = scores[better], scores[worse]
            if one.p is None or one.p == 0.5 or first is None or second is None:
                skipped += 1
                continue
            lengths = len(group.completions[better].text), len(group.completions[worse].text)
            kind = str(group.prompt.meta.get(part, "none")) if part else ""
            found.append(Pair(group.prompt.id, (first, second), lengths, kind))
    return found, skipped


def find(pairs: Sequence[Pair], groups: Sequence[Group], by: str, preferred_by: str, skipped: int) -> RewardAccuracy:
    """The figures.

    Worked: rewards (2, 1) at (10, 20) characters and (1, 3) at (30, 5): one of two is a hit, the longer answer is
    right in the second alone; of one pair whose preferred answer is shorter the reward gets one; in no pair is it
    higher for the longer answer.
    """
    rewards = _by_prompt(pairs, [hit(*pair.rewards) for pair in pairs])
    longer = _by_prompt(pairs, [hit(*pair.characters) for pair in pairs])
    short = [pair for pair in pairs if pair.characters[0] < pair.characters[1]]
    uneven = [pair for pair in pairs if pair.characters[0] != pair.characters[1]]
    agree = [
        hit(*pair.rewards) if pair.characters[0] > pair.characters[1] else 1 - hit(*pair.rewards) for pair in uneven
    ]
    follows = sum(agree) / len(agree) if agree else None
    found = correlation(groups, by)
    return RewardAccuracy(
        by, preferred_by, len(pairs), mean_interval(list(rewards.values())), mean_interval(list(longer.values())),
        difference(rewards, longer),
        mean_interval(list(_by_prompt(short, [hit(*pair.rewards) for pair in short]).values())),
        len(short), follows, found, skipped, _warning(by, follows, found, len(uneven)),
        calibration([pair.rewards[0] - pair.rewards[1] for pair in pairs]), _by_group(pairs),
    )  # fmt: skip


def _by_group(pairs: Sequence[Pair]) -> dict[str, Interval]:
    """The accuracy in each group, with Wilson's interval where every prompt has one pair; {} where there are none."""
    parted: dict[str, list[Pair]] = {}
    for pair in pairs:
        parted.setdefault(pair.group, []).append(pair)
    parted.pop("", None)
    out = {}
    for name, of in sorted(parted.items()):
        values = [x for x in _by_prompt(of, [hit(*pair.rewards) for pair in of]).values() if x is not None]
        plain_share = all(x in (0.0, 1.0) for x in values)
        out[name] = wilson(sum(values), len(values)) if plain_share else mean_interval(values)
    return out


def _by_prompt(pairs: Sequence[Pair], values: Sequence[float]) -> dict[str, float | None]:
    return per_prompt(values, [pair.prompt for pair in pairs])


def _warning(by: str, follows: float | None, found: float | None, pairs: int) -> str:
    """What to warn of, "" for nothing."""
    if follows is None or pairs < ENOUGH or (follows < FOLLOWS and (found is None or found < CORRELATED)):
        return ""
    told = "" if found is None else f", and within prompts their correlation is {found:.2f}"
    return f"{by} measures little but length: it prefers the longer answer in {follows:.0%} of {pairs} pairs{told}"


def correlation(groups: Sequence[Group], by: str) -> float | None:
    """Pearson's correlation of score and characters, both less their mean over the prompt's answers; None where either
    does not vary."""
    x: list[float] = []
    y: list[float] = []
    for group in groups:
        told = zip(group.completions, group.scores(by), strict=True)
        rows = [(len(completion.text), score) for completion, score in told if score is not None]
        for column, values in zip((x, y), zip(*rows, strict=True), strict=False):
            mean = math.fsum(values) / len(values)
            column += [value - mean for value in values]
    squares = math.fsum(a * a for a in x) * math.fsum(b * b for b in y)
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(squares) if squares > 1e-18 else None


def draw(result: RewardAccuracy) -> str:
    """The table."""
    digits = places(result.gain)
    gain = "–" if result.gain.mean is None else plus(100 * result.gain.mean, max(digits - 2, 1))
    rows = [
        ["the reward", within(result.accuracy, 100, 1), str(result.pairs)],
        ["the longer answer", within(result.longer, 100, 1), str(result.pairs)],
        [
            "the reward, where the shorter answer is preferred",
            within(result.shorter, 100, 1),
            str(result.shorter_pairs),
        ],
    ]
    rows += [[f"the reward, {name}", within(of, 100, 1), ""] for name, of in result.by_group.items()]
    notes = [
        f"Scores by {result.reward}, preferences by {result.preferred_by}; ±: half the 95 % interval over "
        f"{result.accuracy.n} prompts. The reward is {gain} over the longer answer, "
        f"{'apart from it' if result.gain.excludes_zero else 'which cannot be told from none'}.",
        *([f"Warning: {result.warning}."] if result.warning else []),
    ]
    if result.correlation is not None and not result.warning:
        notes.append(f"Its correlation with length, within prompts, is {result.correlation:.2f}.")
    table = plain.table(["right", "%", "pairs"], rows, notes=notes)
    return table if result.calibration is None else f"{table}\n{draw_calibration(result.calibration)}"


def draw_calibration(found: Calibration) -> str:
    """How sure it was, and how often right."""
    rows = []
    for one in found.bins:
        span = f"{100 * one.low:.0f} to {100 * one.high:.0f}"
        rows.append([span, f"{100 * one.sure:.1f}", f"{100 * one.right:.1f}", str(one.pairs)])
    if found.scale is None:
        told = "no factor on the rewards has the least loss"
    else:
        sure = "too sure" if found.scale < 1 else "not sure enough"
        told = f"the loss is least with rewards times {found.scale:.2f}: they are {sure}"
    note = (
        f"As odds, sigma of the difference: off by {100 * found.error:.1f} points on average; loss {found.loss:.3f} "
        f"nats (0.693 knows nothing); {told}."
    )
    return plain.table(["sure, %", "mean", "right", "pairs"], rows, notes=[note])


def read(report: Report) -> RewardAccuracy:
    """The result of a made `reward_accuracy`."""
    return read_figures(report, RewardAccuracy)
