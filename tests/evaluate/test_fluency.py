"""Perplexity under a reference: three numbers worked by hand, and the readings against the model's own logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import folders
from tests.evaluate.graded import graded
from trueline import models
from trueline.errors import UserError
from trueline.evaluate.fluency import Perplexing, fluency, pooled, read_fluency, summarize
from trueline.pipeline import make
from trueline.records import read_jsonl
from trueline.store import using

TEXTS = (("Ada bakes it.", "", "Go away"), ("The miller lives here.", "Ada bakes it.", "no"))


def test_worked():
    """Perplexities 4 (2 tokens), 16 (1 token) and 20,000 (1 token), one empty answer, one that is too long.

    Mean (4 + 16 + 20000) / 3; below 10,000 (4 + 16) / 2; over the four tokens (4^2 * 16 * 20000)^(1/4).
    """
    readings = [
        Perplexing("p", (2 * math.log(4), None), (2, 0)),
        Perplexing("q", (math.log(16), None, math.log(20_000)), (1, 3000, 1)),
    ]
    found = summarize(readings, "sft")
    assert found.samples.mean == pytest.approx(20_020 / 3)
    assert found.bounded.mean == pytest.approx(10)
    assert found.corpus.mean == pytest.approx((16 * 16 * 20_000) ** 0.25)
    assert (found.answers, found.tokens, found.empty, found.long, found.discarded) == (3, 4, 1, 1, 1)
    assert found.samples.n == 2 and found.samples.low <= found.samples.mean <= found.samples.high


def test_the_bound_is_discarded_itself():
    at = summarize([Perplexing("p", (math.log(1e4) + 1e-9, math.log(9999)), (1, 1))], "sft")
    assert at.discarded == 1 and at.bounded.mean == pytest.approx(9999)


def test_a_mean_over_answers_is_no_mean_of_means():
    """(2) and (3, 3, 4): 12 / 4, not (2 + 10/3) / 2. A hopeless answer stays a number."""
    assert pooled([(2.0, 1), (10.0, 3)]).mean == 3
    assert math.isfinite(summarize([Perplexing("p", (5000.0,), (1,))], "sft").samples.mean)
    assert summarize([], "sft").corpus.mean is None


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0.01, 60), st.integers(1, 9)), min_size=1, max_size=4), min_size=1, max_size=5
    )
)
def test_the_corpus_lies_between_the_best_and_the_worst_answer(rows):
    readings = [Perplexing(f"p{i}", *map(tuple, zip(*of, strict=True))) for i, of in enumerate(rows)]
    found = summarize(readings, "sft")
    each = [math.exp(nll / tokens) for of in rows for nll, tokens in of]
    for mean in (found.samples.mean, found.corpus.mean):
        assert min(each) * (1 - 1e-9) <= mean <= max(each) * (1 + 1e-9)
    assert found.discarded == sum(value >= 1e4 for value in each)
    tripled = summarize([reading for reading in readings for _ in range(3)], "sft")
    assert tripled.corpus.mean == pytest.approx(found.corpus.mean)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return models.pretrained(folders.folder(tmp_path_factory.mktemp("reference")))


def by_hand(policy, prompt, text):
    """Summed NLL and tokens of an answer after the bare prompt, from the model's logits; no end-of-turn."""
    loaded = models.load(policy)
    before, ids = loaded.renderer.prompt_ids(prompt.messages), loaded.renderer.answer_ids(text, ended=False)
    with torch.no_grad():
        logps = loaded.model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    return -sum(float(logps[len(before) + t - 1, token]) for t, token in enumerate(ids)), len(ids)


def test_the_stage_reads_after_the_bare_prompt(reference, tmp_path):
    """What the answers were asked for with, and whether they ended, changes nothing."""
    none = ((None,) * 3,) * 2
    samples = graded(none, TEXTS, ask="Excellent. input: ")
    with using(tmp_path):
        report = make(fluency(samples, reference))
        readings = list(read_jsonl(report.path / "readings.jsonl", Perplexing))
        for group, reading in zip(samples.read(), readings, strict=True):
            assert reading.prompt == group.prompt.id
            for c, completion in enumerate(group.completions):
                if not completion.text:
                    assert (reading.nlls[c], reading.tokens[c]) == (None, 0)
                    continue
                nll, tokens = by_hand(reference, group.prompt, completion.text)
                assert reading.nlls[c] == pytest.approx(nll, rel=1e-4) and reading.tokens[c] == tokens
        found = read_fluency(report)
        assert found == summarize(readings, reference.name) and found.empty == 1
        assert report.record["counts"] == {"read": 5, "tokens": found.tokens, "empty": 1}
        assert read_fluency(report, ["q1"]).answers == 3
        table = (report.path / "table.txt").read_text()
        assert "perplexity of all tokens" in table and f"read by {reference.name} after the bare prompt" in table


def test_refusals(reference, tmp_path):
    with using(tmp_path):
        with pytest.raises(UserError, match="none of 2 answers has a token to read"):
            make(fluency(graded(((None, None),), (("", ""),)), reference))
        long = graded(((None,),), (("Ada bakes the bread. " * 400,),))
        with pytest.raises(UserError, match="1 of 1 answers are longer than the context"):
            make(fluency(long, reference))
        samples = make(graded(((1.0,),)))
        with pytest.raises(UserError, match="it is no measure of fluency"):
            read_fluency(samples)
