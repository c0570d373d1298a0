"""ALT's own files: what each field becomes, what comes back, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import folders
from tests.prompts.written import answers, lines, made, record
from trueline import models
from trueline.errors import UserError
from trueline.files import Row
from trueline.prompts import alt
from trueline.prompts.alt import CutAt, alt_records, was_cut, write
from trueline.records import Completion, Feedback, Group, Message, Prompt

LMU = {
    "prompt": "Excellent. input: a post. input: b TL;DR:",
    "generations": ["one.", "two"],
    "analysis": ["ok.", None],
    "feedbacks": ["short.", None],
    "scores": [3.0, None],
}


def group_of(row, *prefixes):
    return alt.record(Row("f line 1", row), prefixes)


def test_every_field_becomes_the_feedback_it_is():
    base = {"prompt": "a", "generations": ["x", "y"]}
    assert group_of(base).feedback == ((), ())
    rewards = group_of({**base, "rewards": [2.874, None]})
    assert [f[0] for f in rewards.feedback] == [Feedback("alt:rewards", 2.874), Feedback("alt:rewards")]
    labels = group_of({**base, "feedbacks": ["Harmful", None]})
    assert [f[0].label for f in labels.feedback] == ["Harmful", None]
    said = group_of(LMU).feedback
    assert said[0] == (Feedback("alt:feedbacks", 3.0, None, "short.", "ok."),) and said[1][0].abstained
    both = group_of({**LMU, "rewards": [1, 2], "perplexity": 12.5})
    assert [[f.by for f in of] for of in both.feedback] == [["alt:rewards", "alt:feedbacks"]] * 2
    assert both.prompt.meta == {"perplexity": 12.5}
    assert [f[0].score for f in group_of({**base, "scores": [1, 0]}).feedback] == [1.0, 0.0]


def test_toxicity_lines():
    row = {"prompt": "The heron", "generations": [{"text": " sat.", "toxicity": 0.25}, {"text": "", "toxicity": None}]}
    found = group_of(row)
    assert answers(found) == (" sat.", "")
    assert [f[0].score for f in found.feedback] == [0.75, None]
    assert alt.line(found, toxicity="alt:toxicity") == row


def test_only_a_known_beginning_is_taken_off():
    """The prompt holds the separator itself; looking for its last place would leave "b TL;DR:"."""
    found = group_of(LMU, "Excellent. input: ")
    assert found.prompt.text == "a post. input: b TL;DR:"
    assert {c.ask for c in found.completions} == {"Excellent. input: "}
    several = group_of(LMU, "Excellent.", "Excellent. input: ", "Good. input: ")
    assert several.prompt.text == found.prompt.text
    assert group_of(LMU).prompt.text == LMU["prompt"] and group_of(LMU).completions[0].ask is None
    assert alt.line(found, feedbacks="alt:feedbacks", asked=True) == LMU
    with pytest.raises(UserError, match=r'begins with "Excellent.*begins with "Good'):
        group_of(LMU, "Good. input: ")


@given(
    st.text(),
    st.sampled_from(["", "feedback: Short. input: ", "Excellent. input: "]),
    st.lists(
        st.tuples(st.text(), st.none() | st.floats(-5, 5), st.none() | st.text(min_size=1)), min_size=1, max_size=4
    ),
)
def test_what_is_written_reads_back(text, ask, said):
    groups = Group(
        Prompt.of(text),
        tuple(Completion(t, "alt", ask=ask or None) for t, _, _ in said),
        tuple((Feedback("alt:rewards", s), Feedback("alt:feedbacks", s, None, f)) for _, s, f in said),
    )
    row = alt.line(groups, rewards="alt:rewards", feedbacks="alt:feedbacks", asked=True)
    assert group_of(json.loads(json.dumps(row)), *([ask] if ask else [])) == groups


def test_prompts_that_stand_twice_are_joined_and_counted(tmp_path):
    """The sampler of the authors kept the first of two; here all are kept, and one may ask for an error."""
    rows = [{"prompt": "a", "generations": ["1", "2"], "rewards": [1, None]}, {"prompt": "b", "generations": ["3"]},
            {"prompt": "a", "generations": ["4"]}]  # fmt: skip
    handle = alt_records(lines(tmp_path, *rows, name="out.json"))
    groups = made(tmp_path, handle)
    assert [answers(g) for g in groups] == [("1", "2", "4"), ("3",)]
    assert [len(of) for of in groups[0].feedback] == [1, 1, 0]
    assert record(tmp_path, handle)["counts"] == {"groups": 2, "samples": 4, "merged": 1, "abstained": 1}
    with pytest.raises(UserError, match=r"line 3: the prompt \"a\" stands in an earlier line"):
        made(tmp_path, alt_records(lines(tmp_path, *rows), same="error"))
    with pytest.raises(UserError, match='"merge" or "error"'):
        made(tmp_path, alt_records(lines(tmp_path, *rows), same="first"))


def test_when_a_generation_was_cut(tmp_path):
    """64 tokens not ending in . ? !: cut; 63: ended; 64 ending in a full stop: ended."""
    assert was_cut(" A b", 64, 64) and was_cut('He said "no."', 64, 64) and was_cut("", 64, 64)
    assert not was_cut(" A b", 63, 64) and not was_cut(" A b. ", 64, 64) and not was_cut("", 0, 64)
    policy = models.pretrained(folders.folder(tmp_path / "model"))
    tokenizer = models.open_tokenizer(tmp_path / "model")
    n = len(tokenizer.encode("Ada bakes the bread", add_special_tokens=False))
    row = {"prompt": "a", "generations": [" Ada bakes the bread ", "Ada bakes the bread.", "Ada"]}
    handle = alt_records(lines(tmp_path, row), cut=CutAt(policy, n))
    (group,) = made(tmp_path, handle)
    assert [c.stopped for c in group.completions] == ["length", "stop", "stop"]
    assert record(tmp_path, handle)["counts"] == {"groups": 1, "samples": 3, "cut": 1}
    with pytest.raises(UserError, match="at least 1"):
        CutAt(policy, 0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a"}, '"generations" is missing'),
        ({"prompt": "a", "generations": []}, '"generations" is an empty list'),
        ({"prompt": "a", "generations": ["x", 3]}, r'"generations\[0\]" is text'),
        ({"prompt": "a", "generations": [{"text": "x"}]}, '"toxicity" is missing'),
        ({"prompt": "a", "generations": ["x"], "rewards": [1, 2]}, '"rewards" has 2 entries for 1 generations'),
        ({"prompt": "a", "generations": ["x"], "rewards": None}, '"rewards" is null'),
        ({"prompt": "a", "generations": ["x"], "rewards": ["1"]}, 'an entry of "rewards" is text'),
        ({"prompt": "a", "generations": ["x"], "feedbacks": [1]}, 'an entry of "feedbacks" is the number 1'),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, said):
    with pytest.raises(UserError, match=rf"line 1.*{said}"):
        made(tmp_path, alt_records(lines(tmp_path, row)))


def test_a_file_written_ends_its_last_line_and_refuses_what_it_cannot_hold(tmp_path):
    path = tmp_path / "out.json"
    one = Group(Prompt.of("a"), (Completion("x", ask="Good."), Completion("y")), ((Feedback("rm", 1.0),), ()))
    assert write(path, [one, one], rewards="rm") == 2
    assert path.read_bytes().endswith(b"}\n")
    assert json.loads(path.read_text().splitlines()[0])["rewards"] == [1.0, None]
    with pytest.raises(UserError, match=r'nothing was said by rn.*"rm"'):
        write(path, [one], rewards="rn")
    with pytest.raises(UserError, match="asked for in 2 ways"):
        write(path, [one], asked=True)
    turns = Group(Prompt((Message("user", "a"), Message("assistant", "b"), Message("user", "c"))), (Completion("x"),))
    with pytest.raises(UserError, match="it has 3 turns"):
        write(path, [turns])
