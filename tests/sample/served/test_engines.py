"""What is sent, what is read, and what is counted: against a real server on loopback."""

from __future__ import annotations

import json
import math

import pytest

from tests.sample import given
from tests.sample.served.loopback import KEY, Loopback
from trueline.errors import UserError
from trueline.feedback.protocol import metering
from trueline.fingerprint import fingerprint
from trueline.pipeline import make
from trueline.records import Completion, Message, Prompt
from trueline.sample.draw import draw
from trueline.sample.protocol import Engine, Sampling, money
from trueline.sample.served import Anthropic, Connection, OpenAI
from trueline.store import using

ASKED = Prompt.of("Who bakes the bread?")


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


@pytest.fixture
def server():
    with Loopback() as serving:
        yield serving


def fast(server, path="/v1", **more):
    return Connection(server.url + path, **{"backoff_s": 0.01, "longest_s": 0.05, "timeout_s": 5.0, **more})


def ask(engine, *prompts, **sampling):
    """(completions of the one prompt, or of each), what was metered."""
    with metering() as metered, engine:
        said = engine.generate(prompts or [ASKED], Sampling(**sampling))
    return (said if len(prompts) > 1 else said[0]), metered


def chat_reply(message, finish="stop", **more):
    """A scripted reply of the chat protocol, as a fault."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}, **more}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    return (
        200,
        {},
        {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage},
    )


def test_a_drawing_over_http_is_a_drawing(server, store, tmp_path):
    """Five prompts, two answers each: ten calls, their tokens and their money, in groups like any other."""
    (tmp_path / "prices.toml").write_text('[compatible]\n"m" = { input = 2, output = 10 }\n')
    engine = OpenAI("m", fast(server, prices=str(tmp_path / "prices.toml")), system="Answer in short.")
    samples = draw(engine, given.questions(), Sampling(n=2, max_tokens=6, seed=1))
    assert samples.count == {"prompts": 5, "groups": 5, "samples": 10, "calls": 10}
    counts = make(samples).record["counts"]
    groups = list(samples.read())
    words = sum(len(c.text.split()) for g in groups for c in g.completions)
    read = 2 * sum(len(g.prompt.text.split()) + 3 for g in groups)
    assert counts | {"cut": 0} == {
        "prompts": 5, "groups": 5, "samples": 10, "calls": 10, "prompt_tokens": read, "completion_tokens": words,
        "cost_microusd": 2 * read + 10 * words, "paid_microusd": 2 * read + 10 * words, "cut": 0,
    }  # fmt: skip
    assert money(counts) == f"${(2 * read + 10 * words) / 1e6:.4f}"
    assert {c.author for g in groups for c in g.completions} == {"served:m"}
    assert {c.stopped for g in groups for c in g.completions} == {"stop", "length"}
    assert "concurrency=8" in samples.record["runtime"][0]


def test_a_critic_asks_over_http():
    """What the judging cost stands in its record beside what was judged; a reply that is no category is asked again."""
    from trueline.feedback.grade import HH, Grade
    from trueline.feedback.judge import judge

    def say(body, number):
        asked = body["messages"][-1]["content"]
        return "Well ..." if "0. Who" in asked and "2 of 2" not in asked else HH[1]

    with Loopback(share=0.3, mixed=(429, 500, "cut", "drop"), say=say) as server:
        drawn = draw(OpenAI("m", fast(server, retries=20)), given.questions(), Sampling(n=2, max_tokens=6, seed=1))
        critic = Grade(OpenAI("grader", fast(server, retries=20)), tries=2)
        judged = judge(drawn, critic)
        counts = make(judged).record["counts"]
        assert [f.label for g in judged.read() for of in g.feedback for f in of] == [HH[1]] * 10
        assert counts["calls"] == counts["critic_calls"] - counts.get("cached", 0)
        assert counts["asked_again"] >= 1 and counts["prompt_tokens"] > 1000 and counts["unpriced_calls"]
        assert sum(server.answered.values()) == counts["calls"] + drawn.record["counts"]["calls"]


def test_what_is_sent(server):
    ask(OpenAI("m", fast(server), system="Be kind."), temperature=0.7, top_p=0.9, max_tokens=9, stop=("\n\n",), seed=4)
    ((path, body, _),) = server.asked
    assert path == "/v1/chat/completions"
    assert body.pop("seed") >= 0
    assert body == {
        "model": "m", "temperature": 0.7, "top_p": 0.9, "max_tokens": 9, "stop": ["\n\n"],
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASKED.text}],
    }  # fmt: skip


def test_a_server_of_ones_own_is_told_the_defaults_and_the_provider_is_not(server):
    """Other servers fall back to the model's own settings; OpenAI's newer models take neither these nor max_tokens."""
    from trueline.sample.served.engine import Request

    ask(OpenAI("m", fast(server)))
    body = server.asked[0][1]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 128)
    home = OpenAI("gpt-5-mini")._settings(Request(ASKED, Sampling(), ["k"], [0]), {})
    assert set(home) == {"max_completion_tokens", "seed", "extra_body"}


def test_settings_are_left_out_and_added(server):
    engine = OpenAI("m", fast(server), omit=("seed", "top_p", "stop", "top_k"), extra={"reasoning_effort": "low"})
    (said,), _ = ask(engine, top_k=5, min_tokens=2, stop=("e",), max_tokens=30)
    body = server.asked[0][1]
    assert body["reasoning_effort"] == "low" and body["min_tokens"] == 2
    assert not {"seed", "top_p", "stop", "top_k"} & set(body)
    assert "e" not in said.text and said.stopped == "stop"  # a stop text that the server was not told ends it here


def test_thinking_comes_on_top_of_the_answer(server):
    ask(OpenAI("m", fast(server), thinking=100), max_tokens=5)
    ask(Anthropic("m", fast(server, ""), thinking=100), max_tokens=5)
    assert [body["max_tokens"] for _, body, _ in server.asked] == [105, 105]


def test_more_stop_texts_than_the_protocol_takes_still_end_an_answer(server):
    (said,), _ = ask(OpenAI("m", fast(server)), stop=("1", "2", "3", "4", " "), max_tokens=30)
    assert server.asked[0][1]["stop"] == ["1", "2", "3", "4"]
    assert " " not in said.text and said.stopped == "stop"


def test_every_answer_is_asked_for_with_a_seed_of_its_own(server):
    said, _ = ask(OpenAI("m", fast(server)), n=5, max_tokens=30)
    assert len({c.text for c in said}) == len({b["seed"] for _, b, _ in server.asked}) == 5
    more, metered = ask(OpenAI("m", fast(server)), n=7, max_tokens=30)
    assert more[:5] == said and len(server.asked) == 7
    assert (metered["calls"], metered["cached_calls"]) == (7, 5)


def test_several_answers_in_one_request_are_billed_once(server):
    """Ten answers, four to a request: three requests; the question's four words are billed three times."""
    said, metered = ask(OpenAI("m", fast(server), choices=4), n=10, max_tokens=30)
    assert sorted(b.get("n", 1) for _, b, _ in server.asked) == [2, 4, 4]
    assert len({c.text for c in said}) == 10
    assert (metered["calls"], metered["prompt_tokens"]) == (3, 12)
    assert metered["completion_tokens"] == sum(len(c.text.split()) for c in said)


def test_a_server_that_gives_one_answer_whatever_it_is_asked_is_asked_again():
    with Loopback(ignore_n=True) as server:
        said, metered = ask(OpenAI("m", fast(server), choices=4), n=6, max_tokens=30)
        assert len({c.text for c in said}) == 6
        assert metered["calls"] == len(server.asked) == 6


@pytest.mark.parametrize(
    ("fault", "text", "stopped", "counted"),
    [
        (chat_reply({"content": None, "refusal": "I cannot help."}), "", "stop", "refused"),
        (chat_reply({"content": "Half an ans"}, "content_filter"), "Half an ans", "length", "filtered"),
        ((400, {}, {"error": {"message": "no", "code": "content_filter"}}), "", "length", "filtered"),
        (chat_reply({"content": ""}), "", "stop", None),
        (chat_reply({"content": None}, "tool_calls"), "", "length", None),
        (chat_reply({"content": "Thinking"}, "length"), "Thinking", "length", None),
    ],
)
def test_a_refusal_is_an_answer_without_text(fault, text, stopped, counted):
    with Loopback([fault]) as server:
        (said,), metered = ask(OpenAI("m", fast(server)))
        assert (said.text, said.stopped) == (text, stopped)
        assert {name for name in ("refused", "filtered") if metered[name]} == ({counted} if counted else set())
        assert len(server.asked) == 1


def test_anthropics_protocol(server):
    """System messages go where they belong; at temperature 1 nothing is sent that its present version refuses."""
    prompt = Prompt((Message("system", "Be brief."), Message("user", "Why?")))
    (said,), metered = ask(Anthropic("c", fast(server, ""), system="Be kind."), prompt, max_tokens=5, stop=("\n", "it"))
    path, body, headers = server.asked[0]
    assert path == "/v1/messages"
    assert body == {
        "model": "c", "max_tokens": 5, "system": "Be kind.\n\nBe brief.", "stop_sequences": ["it"],
        "messages": [{"role": "user", "content": "Why?"}],
    }  # fmt: skip
    assert headers["anthropic-version"] > "2026"
    assert said.author == "served:c" and metered["completion_tokens"] > 0
    ask(Anthropic("c", fast(server, "")), temperature=0.0)
    assert server.asked[1][1]["temperature"] == 0
    assert server.asked[1][2]["anthropic-version"] == "2023-06-01"
    ask(Anthropic("c", fast(server, ""), omit=("temperature",)), temperature=0.0)
    assert "temperature" not in server.asked[2][1] and server.asked[2][2]["anthropic-version"] > "2026"


@pytest.mark.parametrize(
    ("reason", "stopped"), [("refusal", "stop"), ("max_tokens", "length"), ("pause_turn", "length")]
)
def test_why_anthropics_answer_ended(reason, stopped):
    with Loopback(say=lambda body, number: ("Ada does.", reason)) as server:
        (said,), metered = ask(Anthropic("c", fast(server, "")))
        assert (said.text, said.stopped) == ("" if reason == "refusal" else "Ada does.", stopped)
        assert metered["refused"] == (reason == "refusal")


def test_first_tokens_are_read(server):
    """Told "m" -0.2, " m" -2.5, "M" -3: m is log(e^-0.2 + e^-2.5) = -0.105; what is not told is left out."""
    with OpenAI("m", fast(server)) as engine:
        ((first),) = engine.first_logprobs([ASKED], ("m", "M", "n"))
        assert first == pytest.approx({"m": math.log(math.exp(-0.2) + math.exp(-2.5)), "M": -3.0})
        assert engine.first_logprobs([ASKED], ("m",)) == [pytest.approx({"m": first["m"]})]
    body = server.asked[0][1]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
    assert len(server.asked) == 1  # other alternatives of the same question need no other reply
    with OpenAI("m", fast(server), protocol="completion") as engine:
        assert engine.first_logprobs([ASKED], ("a", "b")) == [pytest.approx({"a": -0.1, "b": -2.0})]


def test_a_server_without_log_probs_is_named():
    with Loopback([chat_reply({"content": "m"})] * 2) as server, OpenAI("m", fast(server)) as engine:
        with pytest.raises(UserError, match="no log-probs of first tokens"):
            engine.first_logprobs([ASKED], ("m",))
        with pytest.raises(UserError, match="Anthropic's protocol tells no log-probs"):
            Anthropic("c", fast(server, "")).first_logprobs([ASKED], ("m",))


def test_given_answers_are_read_by_an_echo(server):
    """Tokens " Ada", " does", "." have 4, 5, 1 characters and log-probs -0.4, -0.5, -0.1; "<end>" -0.5."""
    given_ = [Completion(" Ada does."), Completion(" Ada does.", stopped="length")]
    with OpenAI("m", fast(server), protocol="completion", end="<end>") as engine:
        ((ended, cut),) = engine.logprobs([ASKED], [given_])
        assert cut == pytest.approx((-0.4, -0.5, -0.1))
        assert ended == pytest.approx((-0.4, -0.5, -0.1, -0.5))
        asked = len(server.asked)
        assert engine.logprobs([ASKED], [given_]) == [[ended, cut]] and len(server.asked) == asked
        with pytest.raises(UserError, match="the token ' breadfruit' runs across its end"):
            engine.logprobs([Prompt.of("Who bakes bread")], [[Completion("fruit?")]])
    with OpenAI("m", fast(server), protocol="completion") as engine:
        with pytest.raises(UserError, match=r'end="<\|im_end\|>"'):
            engine.logprobs([ASKED], [given_])
        with pytest.raises(UserError, match='Use protocol="chat"'):
            engine.generate([Prompt((Message("system", "Be brief."), Message("user", "Why?")))], Sampling())


def test_a_server_that_does_not_heed_the_temperature_is_seen():
    with Loopback(say=lambda body, number: "Ada.") as server:
        assert ask(OpenAI("m", fast(server)), n=4)[1]["repeated"] == 3


def test_what_identity_is():
    """The model and how it is asked; not the address, not the speed. OpenAI's model is not a server's of that name."""

    def of(**more):
        return fingerprint(OpenAI("m", **more))

    one, other = Connection("http://a:1/v1"), Connection("http://b:2/v1", concurrency=2, max_calls=9)
    assert of(connection=one) == of(connection=other)
    settings = [{"system": "s"}, {"protocol": "completion"}, {"choices": 2}, {"omit": ("seed",)}, {"revision": "q4"}]
    settings += [{"extra": {"top_k": 0}}, {"end": "<end>"}, {"connection": one}, {"thinking": 9}]
    assert len({of(), *(of(**more) for more in settings)}) == len(settings) + 1
    assert fingerprint(Anthropic("m")) != of()


def test_a_prompt_that_ends_with_an_answer_is_named(server):
    answered = Prompt((Message("user", "Who?"), Message("assistant", "Ada.")))
    for engine in (OpenAI("m", fast(server)), Anthropic("m", fast(server, ""))):
        with engine, pytest.raises(UserError, match=f"prompt {answered.id}: it ends with the assistant's turn"):
            engine.generate([answered], Sampling())


def test_engines_keep_the_protocol():
    assert isinstance(OpenAI("m"), Engine) and isinstance(Anthropic("m"), Engine)
    assert [OpenAI("m").name, OpenAI("m", Connection("http://a/v1")).name] == ["openai:m", "served:m"]
    assert Anthropic("c").name == "anthropic:c"
    with pytest.raises(RuntimeError, match="inside `with`"):
        OpenAI("m", Connection("http://127.0.0.1:9/v1")).generate([ASKED], Sampling())
    assert OpenAI("m", choices=4).calls(5, 50) == 15 and Anthropic("c").calls(5, 50) == 50


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: OpenAI(""), "the model's name"),
        (lambda: Anthropic(" "), "the model's name"),
        (lambda: OpenAI("m", protocol="responses"), '"chat" or "completion"'),
        (lambda: OpenAI("m", protocol="completion", system="s"), "no system message"),
        (lambda: OpenAI("m", choices=0), "at least 1"),
        (lambda: OpenAI("m", omit="seed"), "a tuple of names"),
        (lambda: OpenAI("m", extra="seed"), "fields of the request"),
        (lambda: Anthropic("m", extra={"api_key": KEY}), "no secret"),
    ],
)
def test_what_is_refused_when_it_is_written(made, said):
    with pytest.raises(UserError, match=said) as error:
        made()
    assert KEY not in str(error.value)


def test_a_key_reaches_the_server_it_was_named_for_and_nothing_else(store, monkeypatch):
    """Not the records, not the kept replies, not an error that repeats it; and no other server gets OpenAI's key."""
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real-key-of-the-user")
    with Loopback(key=KEY) as server:
        engine = OpenAI("m", fast(server, key_env="MY_KEY"))
        make(draw(engine, given.questions(), Sampling(max_tokens=4)))
        with pytest.raises(UserError, match="it wants a key, and none was sent") as bare:
            ask(OpenAI("m", fast(server)))
        assert not any("sk-real" in json.dumps(headers) for _, _, headers in server.asked)
        monkeypatch.setenv("MY_KEY", "sk-test-wrong")
        with pytest.raises(UserError, match=r"the key in \$MY_KEY is refused") as wrong:
            ask(OpenAI("m", fast(server, key_env="MY_KEY"), system="s"))
        assert sum(KEY not in json.dumps(headers) for _, _, headers in server.asked) == 2  # asked once each
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(UserError, match=r"\$MY_KEY is not set"):
            ask(OpenAI("m", fast(server, key_env="MY_KEY"), system="s"))
    assert "sk-" not in str(bare.value) + str(wrong.value)
    for path in store.root.rglob("*"):
        assert not path.is_file() or b"sk-" not in path.read_bytes(), path


def test_kept_replies_need_neither_key_nor_server(monkeypatch, server):
    monkeypatch.setenv("MY_KEY", KEY)
    engine = OpenAI("m", fast(server, key_env="MY_KEY"))
    said, _ = ask(engine, n=2)
    monkeypatch.delenv("MY_KEY")
    again, metered = ask(OpenAI("m", Connection("http://127.0.0.1:9/v1", key_env="MY_KEY")), n=2)
    assert again == said and metered["cached_calls"] == 2 and "paid_microusd" not in metered
