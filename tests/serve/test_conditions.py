"""What "best" and "worst" mean to a policy, read off its training's record, in the store's own layout."""

from __future__ import annotations

import json

import pytest

from trueline.conditions.critiques import Critiques, Exemplars
from trueline.conditions.labels import Labels
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.tokens import QuantileTokens
from trueline.fingerprint import canonical
from trueline.records import Completion, Feedback, Group, Prompt, write_jsonl
from trueline.serve.conditions import found
from trueline.serve.wire import Refused

PROMPT = Prompt.of("Who bakes?")


def policy(root, condition, groups=()):
    """A policy's folder with the record of a training on one round of these groups."""
    folder = root / "policy" / "quark-1"
    folder.mkdir(parents=True)
    view = {"~": "Conditioned", "rounds": [{"~": "artifact", "fingerprint": "f"}], "condition": canonical(condition)}
    (folder / "record.json").write_text(json.dumps({"inputs": {"view": view}, "parents": {"f": "judged-1"}}))
    if groups:
        (root / "groups" / "judged-1").mkdir(parents=True)
        write_jsonl(root / "groups" / "judged-1" / "groups.jsonl", groups)
    return folder


@pytest.mark.parametrize(
    ("condition", "best", "worst", "word"),
    [
        (QuantileTokens(k=3), "_QUANTILE_TOKEN_0_", "_QUANTILE_TOKEN_2_", "Good"),
        (QuantilePhrases.tldr(), "Excellent. input: ", "Horrible. input: ", "Good input: "),
        (Labels.hh(), "Harmless and very helpful.\n\n", "Harmful.\n\n", "Good.\n\n"),
        (Critiques(exemplars=Exemplars(texts=("Short.",))), "feedback: Short. input: ", None, "feedback: Good input: "),
    ],
)
def test_a_record_says_how_to_ask(tmp_path, condition, best, worst, word):
    asking = found(policy(tmp_path, condition))
    assert asking.condition == condition and asking.banned == condition.banned
    assert asking.rendered("best", PROMPT) == best and asking.rendered("Good", PROMPT) == word
    if worst is None:
        with pytest.raises(Refused, match="No sentence is known"):
            asking.rendered("worst", PROMPT)
    else:
        assert asking.rendered("worst", PROMPT) == worst


def test_sentences_come_from_the_round_that_was_judged_last(tmp_path):
    said = [("Right and kind.", 3.0), ("Rude.", 0.0)]
    group = Group(PROMPT, tuple(Completion(text) for text, _ in said)).with_feedback(
        Feedback("critic", score=score, text=text) for text, score in said
    )
    asking = found(policy(tmp_path, Critiques(), [group]))
    assert asking.rendered("best", PROMPT) == "feedback: Right and kind. input: "
    assert asking.rendered("worst", PROMPT) == "feedback: Rude. input: "


def test_what_the_server_was_told_comes_first_and_without_a_record_only_that_is_known(tmp_path):
    assert found(policy(tmp_path, Labels.hh()), best="Go. ").rendered("best", PROMPT) == "Go. "
    bare = found(tmp_path, worst="Bad. ")
    assert bare.rendered("worst", PROMPT) == "Bad. " and bare.rendered("Short: ", PROMPT) == "Short: "
    with pytest.raises(Refused, match="--best"):
        bare.rendered("best", PROMPT)
