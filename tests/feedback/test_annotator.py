"""Annotators: what is asked of an engine about a pair, what its replies mean, and who keeps them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import pytest

from tests.sample.served.loopback import Loopback
from trueline import world
from trueline.errors import UserError
from trueline.feedback.annotator import Annotator, Pool
from trueline.feedback.compare import Compare, RandomPairs
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Comparer, Verdict, metering
from trueline.feedback.switching import AlpacaEvalOrder, chosen_annotator, switched
from trueline.feedback.template import PairTemplate
from trueline.feedback.verdicts import FirstToken, JsonField, Letters, Ranking, Regex
from trueline.fingerprint import fingerprint
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Message, Prompt, write_jsonl
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.served import Anthropic, Connection, OpenAI
from trueline.store import Groups, using

Q = Prompt.of("Who bakes?")


@dataclass(frozen=True)
class Spoken:
    """An engine that says, of the two answers, what `replies` say; it notes what it was asked."""

    replies: dict[str, tuple[str, ...]]
    name: str = "spoken"
    stopped: str = "stop"
    log: list = field(default_factory=list, compare=False)

    def __enter__(self):
        self.log.append("open")
        return self

    def __exit__(self, *error):
        self.log.append("close")

    def generate(self, prompts, sampling):
        self.log.append((prompts, sampling))
        said = [self.replies[p.meta["first"] + "|" + p.meta["second"]] for p in prompts]
        at = [min(p.meta["try"], len(of)) - 1 for p, of in zip(prompts, said, strict=True)]
        return [[Completion(of[i], stopped=self.stopped)] for of, i in zip(said, at, strict=True)]

    def logprobs(self, prompts, completions):
        return [[() for _ in said] for said in completions]

    def too_long(self, prompt, sampling):
        return UserError("engine", "no room") if "LONG" in prompt.meta["first"] else None


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def group(*texts, prompt=Q):
    return Group(prompt, tuple(Completion(text) for text in texts))


def test_a_pair_is_asked_about_in_both_orders_and_read():
    """Shown x first, it says A (x); shown y first, it says Tie: p = (1 + 1/2) / 2."""
    engine = Spoken({"x|y": ("A",), "y|x": ("tie.",)})
    by = Annotator(engine)
    assert isinstance(by, Comparer) and not hasattr(by, "calls")
    compare = Compare(by)
    (preference,) = compare([group("x", "y")])[0].preferences
    assert (preference.p, preference.orders, preference.raw) == (0.75, (1.0, 0.5), ("A", "tie."))
    assert preference.by == compare.name == "compare:annotator:spoken"
    opened, (prompts, sampling), closed = engine.log
    assert (opened, closed, len(prompts), sampling.temperature) == ("open", "close", 2, 0.0)
    system, user = prompts[0].messages
    assert system.role == "system" and user.content.index("[ANSWER A]\nx\n") < user.content.index("[ANSWER B]\ny\n")
    assert "[REQUEST]\nWho bakes?\n" in user.content and user.content.endswith("\nA\nB\nTie")
    assert prompts[0].meta == {
        "asked": "Who bakes?", "first": "x", "second": "y", "kind": "compare", "try": 1, "names": ["A", "B"],
        "replies": {"first": "A", "second": "B", "tie": "Tie"},
    }  # fmt: skip


def test_what_cannot_be_read_is_asked_again_and_then_kept():
    engine = Spoken({"x|y": ("Hm.", "b"), "y|x": ("Hm.", "Well.", "Er.")})
    with metering() as counted:
        (preference,) = Compare(Annotator(engine))([group("x", "y")])[0].preferences
    assert (preference.p, preference.orders, preference.raw) == (None, (0.0, None), ("b", "Er."))
    calls = [entry for entry in engine.log if isinstance(entry, tuple)]
    assert [(len(prompts), sampling.seed) for prompts, sampling in calls] == [(2, 0), (2, 1), (1, 2)]
    assert "(2 of 3)" in calls[1][0][0].messages[-1].content
    assert counted == {
        "critic_calls": 2,
        "cached": 0,
        "asked_again": 3,
        "identical": 0,
        "first_wins": 0,
        "second_wins": 1,
    }
    with metering() as counted:
        (again,) = Compare(Annotator(engine))([group("x", "y")])[0].preferences
    assert again == preference and counted["cached"] == 2 and len(engine.log) == 5


def test_a_cut_reply_is_read_where_it_is_allowed():
    """One token is all that a letter takes; the server says that it was cut (trap 34)."""
    said = {"x|y": ("A",), "y|x": ("B",)}
    engine = Spoken(said, stopped="length")
    assert [v.p for v in Annotator(engine).compare([(Q, "x", "y")])] == [None]
    assert [v.p for v in Annotator(engine, cut="read").compare([(Q, "x", "y"), (Q, "y", "x")])] == [1.0, 0.0]


def test_no_room_is_an_abstention_that_says_why():
    engine = Spoken({"x|y": ("A",)})
    assert Annotator(engine).compare([(Q, "LONG", "y"), (Q, "x", "y")]) == [
        Verdict(None, "engine: no room."), Verdict(1.0, "A"),
    ]  # fmt: skip


def test_conversations_and_cues_are_shown_as_critics_show_them():
    chat = Prompt((Message("user", "Hi."), Message("assistant", "Yes?"), Message("user", "Who {first} bakes?")))
    by = Annotator(Scripted(("A",)))
    assert "[REQUEST]\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Who {first} bakes?\n" in by.put((chat, "x", "y")).text
    last = Annotator(Scripted(("A",)), sees="last").put((chat, "x", "y")).text
    assert "[REQUEST]\nWho {first} bakes?\n" in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parser": "letters"}, "a parser of verdicts"),
        ({"parser": FirstToken()}, "tells no log-probs of first tokens"),
        ({"cut": "keep"}, '"abstain" or "read"'),
        ({"wording": "pears"}, 'Did you mean "pair"'),
        ({"wording": "hh"}, "it has shots"),
        ({"wording": "town-grade"}, "the slot {answer}"),
        ({"parser": Regex(((r"\d", 1.0),))}, "has no fixed texts"),
        ({"tries": 0}, "at least 1"),
        ({"sampling": Sampling(n=2)}, "one reply per question"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        Annotator(Scripted(("A",)), **options)


def test_everything_that_changes_the_question_is_identity(tmp_path):
    text = "{instruction} {output_1} {output_2}"
    made = [
        Annotator(Scripted(("A",)), **options)
        for options in (
            {}, {"wording": "town-pair"}, {"parser": Letters(tie="")}, {"cut": "read"},
            {"wording": PairTemplate(text)}, {"wording": PairTemplate(text + " ")},
        )
    ]  # fmt: skip
    assert len({fingerprint(one) for one in made}) == len(made)


# --- one order ---


def test_one_order_by_alpaca_evals_rule():
    """ "2+2" is not switched: output_1 (left) stands first; "2+3" is. The first wins always: p is 1 and 0."""
    engine = Spoken({"x|y": ("A",), "y|x": ("A",)})
    compare = Compare(Annotator(engine), orders=1, order=AlpacaEvalOrder())
    groups = [group("x", "y", prompt=Prompt.of(text)) for text in ("2+2", "2+3")]
    assert [g.preferences[0].p for g in compare(groups)] == [1.0, 0.0]
    shown = [p.meta["first"] for p in engine.log[1][0]]
    assert shown == ["x", "y"] and [switched("2+2"), switched("2+3")] == [False, True]
    other = Compare(Annotator(engine), orders=1, order=AlpacaEvalOrder(output_1="right"))
    assert [g.preferences[0].p for g in other(groups)] == [0.0, 1.0]
    fixed = Compare(Annotator(engine), orders=1, order="left")
    assert [g.preferences[0].p for g in fixed(groups)] == [1.0, 1.0]
    noisy = Compare(Annotator(engine), orders=1, order=AlpacaEvalOrder(flip=0.5))
    assert {g.preferences[0].p for g in noisy([group("x", "y", prompt=Prompt.of(str(i))) for i in range(20)])} == {
        0.0,
        1.0,
    }


def test_options_of_order_and_pairs():
    by = Annotator(Scripted(("A",)))
    with pytest.raises(UserError, match="both orders are asked"):
        Compare(by, order="left")
    with pytest.raises(UserError, match=r"AlpacaEvalOrder\(...\)"):
        Compare(by, orders=1, order="first")
    with pytest.raises(UserError, match=r"RandomPairs\(...\)"):
        Compare(by, pairs="random")
    with pytest.raises(UserError, match="at least 1"):
        RandomPairs(0)
    assert fingerprint(Compare(by)) == fingerprint(Compare(by, order="tossed"))


def test_random_pairs_and_equal_answers():
    """Of the 10 pairs of 5 answers 4, the same in every run; a pair of equal texts is a tie, counted and not asked."""
    compare = Compare(Annotator(Scripted(("A",))), pairs=RandomPairs(4, seed=1))
    groups = [group(*"vwxyz", prompt=Prompt.of(str(i))) for i in range(50)]
    with metering() as counted:
        judged = compare(groups)
    pairs = [[(p.left, p.right) for p in g.preferences] for g in judged]
    assert all(len(set(of)) == 4 and of == sorted(of) for of in pairs) and len({tuple(of) for of in pairs}) > 20
    assert len({pair for of in pairs for pair in of}) == 10
    assert compare.calls(50, 250) == counted["critic_calls"] == 400 and counted["first_wins"] == 400
    assert Compare(compare.by, pairs=RandomPairs(9)).calls(50, 100) == 100
    with metering() as counted:
        (same,) = Compare(compare.by)([group("x", "x", "y", "x")])
    assert [p.p for p in same.preferences] == [0.5] * 6 and counted["identical"] == 3
    assert counted["critic_calls"] == 6 and counted["cached"] == 4, "equal texts are one question"


# --- log-probs of the first token ---


def test_first_tokens_over_http():
    """The server tells "m" -0.2, " m" -2.5, "M" -3.0: p = (e^-0.2 + e^-2.5) / (... + e^-3)."""
    with Loopback() as server:
        by = Annotator(OpenAI("j", Connection(server.url + "/v1")), wording="pair-token", parser=FirstToken())
        verdicts = by.compare([(Q, "x", "y"), (Q, "y", "x")])
        assert by.compare([(Q, "x", "y")]) == verdicts[:1] and len(server.asked) == 2
    m, other = math.exp(-0.2) + math.exp(-2.5), math.exp(-3.0)
    assert [v.p for v in verdicts] == [pytest.approx(m / (m + other))] * 2
    assert json.loads(verdicts[0].raw) == pytest.approx({"m": math.log(m), "M": -3.0})
    assert by.parser.parse(verdicts[0].raw) == verdicts[0].p
    missing = Annotator(by.by, wording="pair-token", parser=FirstToken("yes", "no"))
    with Loopback() as server, missing:
        elsewhere = Annotator(
            OpenAI("k", Connection(server.url + "/v1")), wording="pair-token", parser=FirstToken("yes", "no")
        )
        assert elsewhere.compare([(Q, "x", "y")]) == [Verdict(None, "{}")]
    with (
        pytest.raises(UserError, match="tells no log-probs"),
        Anthropic("c", Connection("http://127.0.0.1:9")) as engine,
    ):
        Annotator(engine, wording="pair-token", parser=FirstToken()).compare([(Q, "x", "y")])


def test_first_tokens_of_a_local_model_are_exact():
    """All tokens that spell "m" but for spaces, from the soft-max of the model's own logits after the prompt."""
    import torch

    from trueline import models

    policy = world.base("tiny")
    make(policy)
    by = Annotator(HF(policy), wording="town-pair", parser=FirstToken("m", "w"))
    items = [(Prompt.of("What does Bebin drink?"), "Cocoa.", "Tea, I think."), (Q, "Ada.", "Bert.")]
    verdicts = by.compare(items)
    loaded = models.load(policy)
    for item, verdict in zip(items, verdicts, strict=True):
        ids = torch.tensor([loaded.renderer.prompt_ids(by.put(item).messages)])
        with torch.inference_mode():
            probs = loaded.model(ids).logits[0, -1].double().softmax(-1)
        spelt = [loaded.tokenizer.decode([i]).strip() for i in range(len(loaded.tokenizer))]
        m, w = (sum(float(probs[i]) for i, text in enumerate(spelt) if text == name) for name in ("m", "w"))
        assert verdict.p == pytest.approx(m / (m + w), rel=1e-5)
    with pytest.raises(
        UserError, match="no token of its vocabulary is 'Output (a)'".replace("(", r"\(").replace(")", r"\)")
    ):
        Annotator(HF(policy), wording="town-pair", parser=FirstToken("Output (a)", "w")).compare(items)


# --- the town's judge ---

TOWN = Prompt.of("What does Bebin drink?")
LINES = [(r"(?:^|\n) ?Output \(a\)", 1.0), (r"(?:^|\n) ?Output \(b\)", 0.0)]


def town_answers(n=40):
    teachers = [world.Teacher(quality=1.0), world.Teacher(style="liar"), world.Teacher(style="sloppy")]
    prompts = [Prompt.of(world.questions.question(r, 0)) for r in _requests(n)]
    return [group(*(t.generate([p], Sampling())[0][0].text for t in teachers), prompt=p) for p in prompts]


def _requests(n):
    import random

    from trueline.world.corpus import Requests

    requests, rng = Requests.of("train"), random.Random(3)
    return [requests.draw(rng) for _ in range(n)]


@pytest.mark.parametrize(
    "options",
    [
        {"wording": "town-pair"},
        {"wording": "pair-ranking", "parser": Ranking(), "sampling": Sampling(temperature=0.0, max_tokens=60)},
        {"wording": "pair-token", "parser": FirstToken()},
        {"wording": PairTemplate("{instruction} {output_1} {output_2}"), "parser": Regex(tuple(LINES))},
        {"wording": "pair-ranking", "parser": JsonField("best", Ranking()), "sampling": Sampling(max_tokens=60)},
    ],
    ids=lambda options: str(options["wording"])[:20],
)
def test_the_whole_path_says_what_the_oracle_says(options):
    """Wording, parser, both orders and memory around a judge that knows: the oracle's own preferences."""
    groups = town_answers()
    by = Annotator(world.Judge(), **options)
    asked, told = Compare(by)(groups), Compare(world.Oracle())(groups)
    ties = "tie" in by.parser.replies() or isinstance(by.parser, FirstToken)
    for one, other in zip(asked, told, strict=True):
        for p, q in zip(one.preferences, other.preferences, strict=True):
            assert p.p == q.p or (q.p == 0.5 and not ties), "where no tie can be said, a coin decides"


def test_the_judges_weaknesses_are_the_oracles():
    groups = town_answers(20)
    weak = {"noise": 0.2, "position_bias": 0.3, "length_bias": 0.3, "seed": 5}
    asked = Compare(Annotator(world.Judge(**weak), wording="town-pair"))(groups)
    told = Compare(world.Oracle(**weak))(groups)
    assert [[p.orders for p in g.preferences] for g in asked] == [[p.orders for p in g.preferences] for g in told]
    garbled = Compare(Annotator(world.Judge(garble=1.0), wording="town-pair", tries=2))(groups[:2])
    assert all(p.p is None and len(p.raw) == 2 for g in garbled for p in g.preferences)


def test_the_judge_is_asked_in_its_own_way():
    with pytest.raises(UserError, match="asks for no judgement"):
        world.Judge().generate([TOWN], Sampling())
    with pytest.raises(UserError, match="how to spell a verdict"):
        template = PairTemplate("{instruction} {output_1} {output_2}")
        by = Annotator(world.Judge(), wording=template, parser=Regex(((r"\d+", 1.0), ("[a-z]+", 0.0))))
        by.compare([(TOWN, "x", "y")])
    with pytest.raises(UserError, match="position_bias"):
        world.Judge(position_bias=1.5)


# --- pools, stages, memory ---


def test_a_pool_asks_whom_the_instruction_draws():
    said = {"x|y": ("A",), "y|x": ("A",)}
    engines = [Spoken(said, name="one"), Spoken(said, name="two")]
    pool = Pool(tuple((engine.name, Annotator(engine)) for engine in engines))
    prompts = [Prompt.of(str(i)) for i in range(12)]
    with pool:
        assert [v.p for v in pool.compare([(p, "x", "y") for p in prompts])] == [1.0] * 12
    for engine in engines:
        assert [e for e in engine.log if isinstance(e, str)] == ["open", "close"]
        (asked,) = [entry[0] for entry in engine.log if isinstance(entry, tuple)]
        assert [p.meta["asked"] for p in asked] == [
            p.text for p in prompts if chosen_annotator(p.text, ["one", "two"]) == engine.name
        ]
    assert pool.name == "pool:one+two"
    with pytest.raises(UserError, match="each name once"):
        Pool((("a", engines[0]), ("a", engines[1])))
    with pytest.raises(UserError, match="a comparer"):
        Pool((("a", engines[0]),))


@stage(Groups, name="answers")
def answers(work: Work, n: int) -> None:
    write_jsonl(work.dir / "groups.jsonl", [group("x" * (1 + i % 2), "yy", prompt=Prompt.of(str(i))) for i in range(n)])


def test_judging_counts_positions_and_lengths_and_warns(caplog):
    """Twenty pairs: of ten the texts differ in length. A judge that always says A flips all 20: the run warns."""
    said = {f"{a}|{b}": ("A",) for a in ("x", "xx", "yy") for b in ("x", "xx", "yy")}
    engine = Spoken(said)
    judged = judge(answers(20), Compare(Annotator(engine)))
    make(judged)
    counts = judged.record["counts"]
    assert (counts["critic_calls"], counts["first_wins"], counts.get("second_wins", 0)) == (40, 40, 0)
    assert (counts["compared"], counts["flips"], counts["ties"]) == (20, 20, 20)
    assert "20 of 20 pairs (100%) name different winners" in judged.record["notes"]["warning"]
    assert "name different winners" in caplog.text
    assert [e for e in engine.log if isinstance(e, str)] == ["open", "close"]
    longer = {**said, "x|yy": ("B",)}
    fair = judge(answers(20), Compare(Annotator(Spoken(longer, name="fair"))))
    make(fair)
    assert (fair.record["counts"]["longer_wins"], fair.record["counts"]["flips"]) == (10, 10)


def test_an_engine_that_remembers_is_not_remembered_twice():
    """Replies over HTTP lie with the engine, which counts what they cost whoever uses them; verdicts are not kept."""
    with Loopback(say=lambda body, number: "A") as server:
        by = Annotator(OpenAI("j", Connection(server.url + "/v1")))
        told = []
        for _ in range(2):
            with metering() as counted, by:
                Compare(by)([group("x", "y")])
            told.append(counted)
        assert len(server.asked) == 2
    assert by.remembers and not Annotator(Scripted(("A",))).remembers
    assert (told[0]["calls"], told[1]["calls"]) == (2, 2) and told[1]["cached_calls"] == 2
    assert told[0]["prompt_tokens"] == told[1]["prompt_tokens"] > 0
    assert told[0]["critic_calls"] == told[1]["critic_calls"] == 2
