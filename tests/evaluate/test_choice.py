"""Items to tries to scores: what shares a trie, and that no number depends on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluate.items import by, passage, plainly
from tests.folders import folder
from tests.tries import exact_norms
from trueline import models, trie
from trueline.errors import UserError
from trueline.evaluate import choice
from trueline.evaluate.protocol import Item
from trueline.machine import Machine
from trueline.records import Message
from trueline.trie import passes


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return models.load(folder(tmp_path_factory.mktemp("model") / "m"))


def encoded(opened, items):
    return [s for item in items for s in choice.candidates(item, opened.renderer, None).sequences]


def test_a_passage_stands_once_for_all_its_questions_and_options(opened):
    """Three questions of four options: one trie, in which the passage's tokens stand once."""
    listed = encoded(opened, passage(3))
    ((part, batch, _),) = list(passes.passes(opened.model, listed, trie.LOGPS))
    assert sorted(part) == list(range(12))
    prompts = [opened.renderer.prompt_ids(item.messages) for item in passage(3)]
    shared = next(i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1)
    assert shared > 100
    own = sum(len(prompt) - shared for prompt in prompts) + sum(len(s) - 1 for s in listed)
    own -= sum(len(prompt) for prompt in prompts for _ in range(4))
    assert batch.nodes[0].tolist() == [0, shared, len(batch), -1]
    assert len(batch) == shared + own, "each question once, each option without its last token"


def test_log_probs_equal_a_plain_forward_per_option(opened):
    found = passes.logps(opened.model, encoded(opened, passage(3)))
    wanted = [logps for item in passage(3) for logps in plainly(opened, item)]
    assert found.counts_N.tolist() == [len(logps) for logps in wanted]
    np.testing.assert_allclose(found.logps_N, [float(x.double().sum()) for x in wanted], rtol=1e-5, atol=1e-5)


def test_in_float64_they_are_equal_to_1e_10(opened):
    from transformers import AutoModelForCausalLM

    model = exact_norms(AutoModelForCausalLM.from_pretrained(opened.folder, dtype=torch.float64).eval())
    wanted = [float(by(model, opened, item, option).sum()) for item in passage(2) for option in item.options]
    found = passes.logps(model, encoded(opened, passage(2)))
    np.testing.assert_allclose(found.logps_N, wanted, rtol=1e-10, atol=1e-10)


def test_a_number_does_not_depend_on_what_is_scored_beside_it(opened):
    """All in one trie, in tries of 64 tokens at most, and each sequence alone."""
    listed = encoded(opened, passage(4))
    together = passes.logps(opened.model, listed, greedy=True)
    few = passes.logps(opened.model, listed, Machine(device="cpu", micro_tokens=64))
    alone = [passes.logps(opened.model, [s], greedy=True) for s in listed]
    np.testing.assert_allclose(few.logps_N, together.logps_N, rtol=1e-5)
    np.testing.assert_allclose([x.logps_N[0] for x in alone], together.logps_N, rtol=1e-5)
    assert [bool(x.greedy_N[0]) for x in alone] == together.greedy_N.tolist()


def test_an_option_without_tokens_is_refused(opened):
    for closed in (False, True):
        item = Item("q7", (Message("user", "Who?"),), ("Ada", ""), 0)
        with pytest.raises(UserError, match=r"item q7: option 1 \(''\) has no tokens; text"):
            choice.candidates(item, opened.renderer, None, closed)


def test_an_item_longer_than_the_context_is_dropped_with_its_reason(opened):
    """It fits exactly with its longest option, or not at all; the other items are scored all the same."""
    item = passage(1)[0]
    longest = max(len(s) for s in choice.candidates(item, opened.renderer, None).sequences)
    assert choice.candidates(item, opened.renderer, longest).dropped == ""
    dropped = choice.candidates(item, opened.renderer, longest - 1)
    assert dropped.dropped == f"{longest} tokens are more than the model's context of {longest - 1}"
    assert np.isnan(dropped.scores([], []).values).tolist() == [True] * 4
    assert choice.context_of(opened.model) == 256
