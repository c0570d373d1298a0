"""Rows: what the model really sees, and which rows it never sees."""

from __future__ import annotations

import contextlib

import pytest

from tests import folders
from trueline.chat import Renderer
from trueline.errors import UserError
from trueline.records import Message
from trueline.train.rows import Encoder, encode
from trueline.train.views import Answer, Example

QUESTION = (Message("user", "Who bakes the bread?"),)


@pytest.fixture(scope="module")
def renderer():
    return Renderer(folders.tokenizer())


def example(*texts, ended=True, p=1.0, messages=QUESTION):
    return Example(messages, tuple(Answer(t, ended) for t in texts), p)


class Notebook:
    """Keeps what a stage would write."""

    def __init__(self):
        self.dropped, self.counts, self.notes = [], {}, {}

    def drop(self, reason, row, where=""):
        self.dropped.append((reason, row, where))

    def count(self, name, n=1):
        self.counts[name] = self.counts.get(name, 0) + n

    def note(self, key, value):
        self.notes[key] = value

    @contextlib.contextmanager
    def progress(self, total, text):
        yield self

    def advance(self, n):
        self.count("seen", n)


def trained(row, renderer, which=0):
    sequence = row.sequences[which]
    return renderer.tokenizer.decode(sequence.ids[sequence.scored])


def test_only_the_answer_and_its_one_end_are_trained(renderer):
    (row,) = encode([example("Ada does.", "Go away.", p=0.8)], Encoder(renderer))
    assert trained(row, renderer) == "Ada does.<|im_end|>"
    assert trained(row, renderer, 1) == "Go away.<|im_end|>"
    text = renderer.tokenizer.decode(row.sequences[0].ids)
    assert text == "<|im_start|>user\nWho bakes the bread?<|im_end|>\n<|im_start|>assistant\nAda does.<|im_end|>"
    assert row.p == 0.8 and row.ended == (True, True)
    assert row.tokens == sum(s.ids.size for s in row.sequences) > row.cost


def test_an_answer_that_was_cut_trains_no_end(renderer):
    (row,) = encode([example("Ada does and", ended=False)], Encoder(renderer))
    assert trained(row, renderer) == "Ada does and"


def test_heads_read_an_end_that_a_cut_answer_does_not_train(renderer):
    """With heads every answer ends with exactly one end-of-turn; only where the answer is complete is it scored."""
    whole, cut = encode(
        [example("Ada does.", "Go away."), example("Ada does and", ended=False)], Encoder(renderer, closed=True)
    )
    assert [trained(whole, renderer, k) for k in (0, 1)] == ["Ada does.<|im_end|>", "Go away.<|im_end|>"]
    assert trained(cut, renderer) == "Ada does and" and cut.ended == (False,)
    for sequence in (*whole.sequences, *cut.sequences):
        assert renderer.closes_answer(sequence.ids.tolist())
    (plain,) = encode([example("Ada does and", ended=False)], Encoder(renderer))
    assert cut.sequences[0].ids.tolist() == [*plain.sequences[0].ids.tolist(), renderer.end_id]
    assert cut.scored == plain.scored
    with pytest.raises(UserError, match="no answer to rate"):
        encode([Example((), (Answer("Ada bakes."),), whole=True)], Encoder(renderer, closed=True))


def test_earlier_turns_are_trained_where_that_is_asked_for(renderer):
    """Contents and end-of-turns of both assistant turns; never a user's turn, a header, or the newline after an end."""
    talk = (*QUESTION, Message("assistant", "Ada."), Message("user", "And who sells it?"))
    answers = (Answer("Bert does."),)
    (last,) = encode([Example(talk, answers)], Encoder(renderer))
    assert trained(last, renderer) == "Bert does.<|im_end|>"
    (both,) = encode([Example(talk, answers, turns="all")], Encoder(renderer))
    assert trained(both, renderer) == "Ada.<|im_end|>Bert does.<|im_end|>"
    assert both.sequences[0].ids.tolist() == last.sequences[0].ids.tolist() and both.earlier == 1
    (cut,) = encode([Example(talk, (Answer("Bert", ended=False),), turns="all")], Encoder(renderer))
    assert trained(cut, renderer) == "Ada.<|im_end|>Bert"


def test_an_end_written_by_the_author_is_not_doubled(renderer):
    (row,) = encode([example("Ada does.<|im_end|>")], Encoder(renderer))
    assert trained(row, renderer) == "Ada does.<|im_end|>"


def test_rows_too_long_are_dropped_cut_or_refused(renderer):
    """Room for the prompt and all but the last two tokens of the answer (its full stop and its end)."""
    long = example("Ada bakes the bread.")
    (whole,) = encode([long], Encoder(renderer))
    room = whole.tokens - 2
    short = example("Ada.")
    notebook = Notebook()
    assert len(encode([long, *[short] * 9], Encoder(renderer, room), notebook)) == 9
    assert [(reason, where) for reason, _, where in notebook.dropped] == [("longer than max_length", "example 0")]
    assert notebook.dropped[0][1]["answers"] == [{"text": "Ada bakes the bread.", "ended": True}]
    encoder = Encoder(renderer, room, "cut")
    notebook = Notebook()
    (cut,) = encode([long], encoder, notebook)
    assert trained(cut, renderer) == "Ada bakes the bread" and cut.ended == (False,)
    assert notebook.counts == {"seen": 1, "examples": 1, "cut": 1}
    (closed,) = encode([long], Encoder(renderer, room, "cut", closed=True))
    assert trained(closed, renderer) == "Ada bakes the" and closed.tokens == room
    assert renderer.closes_answer(closed.sequences[0].ids.tolist())
    with pytest.raises(UserError, match=f"{whole.tokens} tokens; at most max_length={room}"):
        encode([long], Encoder(renderer, room, "error"))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (example("Ada.", "   "), "empty answer"),
        (example("Ada.", "Ada."), "the two answers are the same"),
        (Example(QUESTION, skip="the critic abstained"), "the critic abstained"),
        (example("Ada.", messages=(Message("user", "bread " * 300),)), "the prompt alone fills max_length"),
        (example("Ada.", messages=(Message("user", "Hi"), Message("assistant", "Ho"))), "the renderer refuses it"),
    ],
)
def test_rows_that_cannot_teach_are_written_aside_with_the_reason(renderer, bad, reason):
    notebook = Notebook()
    rows = encode([example("Ada.", "Bert.")] * 9 + [bad], Encoder(renderer, 128), notebook)
    assert len(rows) == 9
    assert notebook.dropped[0][0].startswith(reason)
    assert notebook.dropped[0][2] == "example 9"


def test_a_share_above_max_dropped_stops_the_run(renderer):
    """2 of 10 rows are a fifth: allowed at 0.2, refused at 0.1, and every reason is counted."""
    rows = [example("Ada.", "Bert.")] * 8 + [example("", "Bert."), example("Ada.", "Ada.")]
    assert len(encode(rows, Encoder(renderer), max_dropped=0.2)) == 8
    with pytest.raises(
        UserError, match=r"2 of 10 would be dropped \(empty answer: 1, the two answers are the same: 1\)"
    ):
        encode(rows, Encoder(renderer))


def test_what_a_view_leaves_out_is_counted_and_not_held_against_the_data(renderer):
    ties = [Example(QUESTION, (Answer("a"), Answer("b")), 0.5, left_out="tie")] * 5
    notebook = Notebook()
    assert len(encode([example("Ada.", "Bert."), *ties], Encoder(renderer), notebook)) == 1
    assert notebook.counts == {"seen": 6, "examples": 1, "left_out": 5} and notebook.notes == {"left_out": {"tie": 5}}
    with pytest.raises(UserError, match=r"none of 5 was kept \(tie: 5\)"):
        encode(ties, Encoder(renderer))
    with pytest.raises(UserError, match="the view gave none"):
        encode([], Encoder(renderer))


def test_documents_train_every_token_but_the_first(renderer):
    talk = Example((*QUESTION, Message("assistant", "Ada.")), whole=True)
    text = Example((), (Answer("Ada bakes the bread."),), whole=True)
    chat, plain = encode([talk, text], Encoder(renderer))
    assert chat.sequences[0].scored.tolist() == [False, *[True] * (chat.tokens - 1)]
    assert renderer.tokenizer.decode(chat.sequences[0].ids).endswith("<|im_start|>assistant\nAda.<|im_end|>\n")
    assert renderer.tokenizer.decode(plain.sequences[0].ids) == "Ada bakes the bread.<|im_end|>"
    (cut,) = encode([talk], Encoder(renderer, 6, "cut"))
    assert cut.tokens == 6


def test_refusals(renderer):
    with pytest.raises(UserError, match="long"):
        Encoder(renderer, long="truncate")
    with pytest.raises(UserError, match="max_length"):
        Encoder(renderer, 1)


def conditioned(text, answer="Ada does.", messages=QUESTION, **changes):
    return Example(messages, (Answer(answer),), condition=text, **changes)


def test_a_condition_stands_in_front_and_the_reference_sees_the_bare_prompt(renderer):
    """The same answer, token for token, after "Good. input: Who bakes" and after "Who bakes"; both tries cost."""
    encoder = Encoder(renderer, stripped=True)
    plain, good = encode([example("Ada does."), conditioned("Good. input: ", rank=1)], encoder)
    assert renderer.tokenizer.decode(good.sequences[0].ids) == (
        "<|im_start|>user\nGood. input: Who bakes the bread?<|im_end|>\n<|im_start|>assistant\nAda does.<|im_end|>"
    )
    assert trained(good, renderer) == "Ada does.<|im_end|>" and good.rank == 1
    assert plain.reference == plain.sequences and plain.rank == -1
    (bare,) = good.reference
    assert (bare.ids == plain.sequences[0].ids).all() and (bare.scored == plain.sequences[0].scored).all()
    assert good.cost == len(good.sequences[0]) + len(bare) and good.tokens == len(good.sequences[0])
    assert plain.key != good.key == conditioned("Good. input: ").key != conditioned("Bad. input: ").key
    (without,) = encode([conditioned("Good. input: ")], Encoder(renderer))
    assert without.reference == () and (without.sequences[0].ids == good.sequences[0].ids).all()


class Counting(Renderer):
    """Counts the prompts it renders."""

    rendered = 0

    def prompt_ids(self, messages):
        self.rendered += 1
        return super().prompt_ids(messages)


def test_a_prompt_is_rendered_once_under_each_condition(renderer):
    """Twelve answers under three conditions, in turn: three prompts and the bare one; then the next prompt's."""
    counting = Counting(folders.tokenizer())
    said = [conditioned(c, f"Ada does {n}.") for n in range(4) for c in ("Good. ", "Bad. ", "")]
    encode(said, Encoder(counting, stripped=True))
    assert counting.rendered == 3
    other = (Message("user", "Who sells the bread?"),)
    encode([*said, conditioned("Good. ", messages=other)], Encoder(counting, stripped=True))
    assert counting.rendered == 3 + 3 + 2


def test_lengths_are_those_of_the_conditioned_row(renderer):
    """A row that fits without its condition and not with it is dropped, or cut for both alike."""
    (bare,) = encode([example("Ada does.")], Encoder(renderer))
    room = len(bare.sequences[0])
    with pytest.raises(UserError, match="longer than max_length"):
        encode([conditioned("G")], Encoder(renderer, room, stripped=True))
    (cut,) = encode(
        [conditioned("Good ", "Ada does, gladly, and Bert")], Encoder(renderer, room + 2, "cut", stripped=True)
    )
    ours, theirs = cut.sequences[0], cut.reference[0]
    assert len(ours) == room + 2 and (ours.ids[ours.scored] == theirs.ids[theirs.scored]).all()


def test_earlier_turns_are_trained_behind_a_condition_too(renderer):
    talk = (Message("user", "Who?"), Message("assistant", "Ada."), Message("user", "Where?"))
    (row,) = encode([conditioned("Good. ", messages=talk, turns="all")], Encoder(renderer, stripped=True))
    assert trained(row, renderer) == "Ada.<|im_end|>Ada does.<|im_end|>" and row.earlier == 1
    (bare,) = row.reference
    assert renderer.tokenizer.decode(bare.ids[bare.scored]) == "Ada.<|im_end|>Ada does.<|im_end|>"
    assert len(bare) == len(row.sequences[0]) - len(renderer.answer_ids("Good. ", False))


def test_what_cannot_be_conditioned_is_dropped(renderer):
    """A token that the reference does not know, in an answer or a prompt; a document behind a condition."""
    (comma,) = renderer.answer_ids(",", False)
    notebook = Notebook()
    rows = [conditioned("A, ", "Ada."), conditioned("A, ", "Ada, yes."), conditioned("", "Ada, yes.")]
    document = Example((), (Answer("Ada bakes."),), whole=True, condition="Good. ")
    encoder = Encoder(renderer, stripped=True, unknown=frozenset({comma}))
    assert len(encode([*rows, document], encoder, notebook, max_dropped=0.8)) == 1
    reasons = [reason for reason, _, _ in notebook.dropped]
    assert reasons == ["an added token in prompt or answer, which the reference does not know"] * 2 + [
        "a document with a condition"
    ]
    assert len(encode(rows, Encoder(renderer))) == 3
