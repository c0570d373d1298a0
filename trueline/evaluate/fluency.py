"""`fluency`: the perplexity of answers under a named reference policy, after the bare prompt.

    fluency(samples, sft)          what the SFT model thinks of what was sampled under "Excellent. input: "

The prompt stands without the condition that the answer was asked for under: it is the text that is judged, not the
asking. The end-of-turn token is never scored, so that stopping early or late is not. Answers are read as texts, by the
reference's own tokenizer; all answers to a prompt run through the model together, the prompt once.

Three numbers, of the answers' summed NLL (nats) and numbers of tokens:

    samples   mean over answers of exp(NLL / tokens): ALT's on TL;DR
    bounded   the same without perplexities of 10,000 and above, which are counted: Quark's and ALT's on toxicity
    corpus    exp(sum of NLL / sum of tokens): the perplexity of all answers as one text, where no outlier rules

Worked: answers of 2 tokens with NLL 2 ln 4, and of 1 token with NLL ln 16: samples (4 + 16) / 2 = 10, corpus
exp((2 ln 4 + ln 16) / 3) = 2^(8/3) = 6.35. An empty answer has no perplexity; it is skipped and counted.

Files: `readings.jsonl` (a `Perplexing` per group: NLL and tokens of each answer), `report.json` (a `Fluency`),
`table.txt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trueline.errors import UserError
from trueline.evaluate import plain
from trueline.evaluate.figures import read_figures, write_figures
from trueline.evaluate.metrics import over_table
from trueline.evaluate.statistics import Floats, Interval
from trueline.evaluate.table import within
from trueline.pipeline import Work, shards, stage
from trueline.records import Group, Record, read_jsonl
from trueline.store import Groups, Policy, Report

if TYPE_CHECKING:
    from trueline.models import Loaded

READINGS = "readings.jsonl"
BOUND = 1e4
_LARGEST = 700.0  # nats per token: exp of more is no float any more


class Perplexing(Record, frozen=True):
    """One group's answers: tokens of each, and their summed NLL in nats.

    An empty answer has 0 tokens; nll is None for it, and for one that does not fit into the model's context.
    """

    prompt: str
    nlls: tuple[float | None, ...]
    tokens: tuple[int, ...]


class Fluency(Record, frozen=True):
    """The three perplexities (module docstring) with intervals from resampling prompts.

    reference: the policy that read. answers: that have a perplexity, of `tokens` tokens; empty, long: that have none,
    being empty or longer than the model's context. discarded: perplexities that `bounded` leaves out.
    """

    reference: str
    samples: Interval
    bounded: Interval
    corpus: Interval
    answers: int
    tokens: int
    empty: int = 0
    long: int = 0
    discarded: int = 0


def _estimate(samples: Groups, **_: Any) -> dict[str, int]:
    return {"read": samples.count.get("samples", 0)}


@stage(Report, rev=1, label="fluency", estimate=_estimate)
def fluency(work: Work, samples: Groups, reference: Policy, chat: str = "auto", max_dropped: float = 0.05) -> None:
    """The perplexity of `samples` under `reference`.

    chat: how prompts are rendered for it. max_dropped: the largest share of answers, from 0 to 1, that may be longer
    than its context.

    Counted in the record: read, tokens, empty, long.
    """
    opened: list[Loaded] = []

    def process(part: Sequence[Group]) -> list[Perplexing]:
        # Opened by the first shard that is not done yet: a run with nothing left to read loads no model.
        if not opened:
            from trueline import models

            opened.append(models.load(reference, machine=work.machine, chat=chat))
        return read_groups(opened[0], part)

    shards(work, list(samples.read()), process, out=READINGS)
    found = summarize(read_jsonl(work.dir / READINGS, Perplexing), reference.name)
    for name, n in (("read", found.answers), ("tokens", found.tokens), ("empty", found.empty), ("long", found.long)):
        if n or name == "read":
            work.count(name, n)
    total = found.answers + found.empty + found.long
    if total and found.long / total > max_dropped:
        raise UserError(
            work.artifact.name, f"{found.long} of {total} answers are longer than the context of {reference.name}",
            f"at most {max_dropped:.1%}", "Name a reference with a longer context, or allow a larger max_dropped.",
        )  # fmt: skip
    if not found.answers:
        raise UserError(work.artifact.name, f"none of {total} answers has a token to read", "answers with text")
    write_figures(work, found)
    (work.dir / "table.txt").write_text(draw(found), encoding="utf-8")


def read_groups(loaded: Loaded, groups: Sequence[Group]) -> list[Perplexing]:
    """NLL and tokens of every answer after its bare prompt, without its end-of-turn token."""
    from trueline import models, trie
    from trueline.trie import passes

    room = models.fitting(loaded.model, 1 << 60)
    sequences, counts, at = [], [], []
    for g, group in enumerate(groups):
        prompt = loaded.renderer.prompt_ids(group.prompt.messages)
        for c, completion in enumerate(group.completions):
            ids = loaded.renderer.answer_ids(completion.text, ended=False) if completion.text else []
            counts.append(len(ids))
            if ids and len(prompt) + len(ids) <= room:
                sequences.append(trie.Sequence.of(prompt, ids))
                at.append((g, c))
    logps = passes.logps(loaded.model, sequences, dtype=models.autocast_dtype()).logps_N.tolist() if sequences else []
    nlls = dict(zip(at, (-value for value in logps), strict=True))
    tokens = iter(counts)
    return [
        Perplexing(
            group.prompt.id,
            tuple(nlls.get((g, c)) for c in range(len(group.completions))),
            tuple(next(tokens) for _ in group.completions),
        )
        for g, group in enumerate(groups)
    ]


def summarize(readings: Iterable[Perplexing], reference: str) -> Fluency:
    """The three perplexities of readings.

    >>> from math import log
    >>> found = summarize([Perplexing("p", (2 * log(4), None), (2, 0)), Perplexing("q", (log(16),), (1,))], "sft")
    >>> round(found.samples.mean, 2), round(found.corpus.mean, 2), found.empty
    (10.0, 6.35, 1)
    """
    by_prompt: dict[str, list[tuple[float, int]]] = {}
    empty = long = 0
    for reading in readings:
        known = by_prompt.setdefault(reading.prompt, [])
        for nll, tokens in zip(reading.nlls, reading.tokens, strict=True):
            if nll is not None:
                known.append((nll, tokens))
            elif tokens:
                long += 1
            else:
                empty += 1
    read = [of for of in by_prompt.values() if of]
    each = [[float(np.exp(min(nll / tokens, _LARGEST))) for nll, tokens in of] for of in read]
    kept = [[value for value in of if value < BOUND] for of in each]
    return Fluency(
        reference=reference,
        samples=pooled([(sum(of), len(of)) for of in each]),
        bounded=pooled([(sum(of), len(of)) for of in kept if of]),
        corpus=over_table(_rows([(sum(n for n, _ in of), sum(t for _, t in of)) for of in read]), _exp_ratio),
        answers=sum(map(len, read)),
        tokens=sum(tokens for of in read for _, tokens in of),
        empty=empty,
        long=long,
        discarded=sum(map(len, each)) - sum(map(len, kept)),
    )


def pooled(rows: Sequence[tuple[float, float]]) -> Interval:
    """A mean over answers from (sum, count) per prompt, with a bootstrap over prompts.

    >>> pooled([(2.0, 1), (10.0, 3)]).mean
    3.0
    """
    return over_table(_rows(rows), _ratio)


def _rows(rows: Sequence[tuple[float, float]]) -> Floats:
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2)


def _ratio(cells_U2: Floats, weights_BU: Floats) -> Floats:
    """[B] sum over count of tables whose columns are a prompt's sum and count; U different cells, B resamples."""
    return np.asarray((weights_BU @ cells_U2[:, 0]) / (weights_BU @ cells_U2[:, 1]))


def _exp_ratio(cells_U2: Floats, weights_BU: Floats) -> Floats:
    return np.asarray(np.exp(np.minimum(_ratio(cells_U2, weights_BU), _LARGEST)))


# --- reading it back -------------------------------------------------------------------------------------------------


def read_fluency(report: Report, prompts: Iterable[str] | None = None) -> Fluency:
    """The result of a made `fluency`, of these prompts only where they are named."""
    if report.stage != "fluency":
        raise UserError(report.name, "it is no measure of fluency", "what fluency(samples, reference) made")
    found = read_figures(report, Fluency)
    if prompts is None:
        return found
    wanted = set(prompts)
    readings = read_jsonl(report.path / READINGS, Perplexing)
    return summarize((reading for reading in readings if reading.prompt in wanted), found.reference)


def rows(found: Fluency) -> list[tuple[str, str]]:
    """The three numbers in words."""
    return [
        ("perplexity", within(found.samples)),
        (f"perplexity below {BOUND:,.0f}", within(found.bounded)),
        ("perplexity of all tokens", within(found.corpus)),
    ]


def draw(found: Fluency) -> str:
    """The three perplexities as plain text."""
    left = [f"{found.answers:,} answers, {found.tokens:,} tokens, read by {found.reference} after the bare prompt"]
    left += [f"{found.empty:,} empty answers skipped"] if found.empty else []
    left += [f"{found.long:,} longer than the model's context skipped"] if found.long else []
    left += [f"{found.discarded:,} perplexities of {BOUND:,.0f} or more discarded in the second row"] * bool(
        found.discarded
    )
    left += [f"±: half the 95% interval over {found.samples.n:,} prompts"]
    return plain.table(["fluency", ""], [list(row) for row in rows(found)], notes=["; ".join(left) + "."])
