"""`trueline serve`, from outside: a process of its own, OpenAI's client, curl, and bare sockets."""

from __future__ import annotations

import json
import math
import subprocess

import openai
import pytest

from trueline import cli
from trueline.records import Group, read_jsonl

QUESTION = "Who bakes the bread?"
ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0, timeout=30)


# --- as OpenAI's client asks -----------------------------------------------------------------------------------------


def test_a_chat_is_answered(client):
    reply = client.chat.completions.create(model="ranker", messages=ASKED, max_tokens=12, seed=3)
    assert reply.object == "chat.completion" and reply.model == "ranker" and len(reply.choices) == 1
    assert reply.choices[0].finish_reason in ("stop", "length") and reply.choices[0].message.content
    assert 0 < reply.usage.completion_tokens <= 12 and reply.usage.prompt_tokens > 5
    again = client.chat.completions.create(model="ranker", messages=ASKED, max_tokens=12, seed=3)
    assert again.choices[0].message.content == reply.choices[0].message.content
    # Without a seed there is one all the same: it is told, and draws the same answer.
    free = client.chat.completions.create(model="ranker", messages=ASKED, max_tokens=12)
    seed = free.model_extra["trueline"]["seed"]
    repeated = client.chat.completions.create(model="ranker", messages=ASKED, max_tokens=12, seed=seed)
    assert repeated.choices[0].message.content == free.choices[0].message.content


def test_a_stream_is_the_same_answer_in_pieces(client):
    for seed in range(3):
        settings = {"model": "ranker", "messages": ASKED, "max_tokens": 30, "seed": seed, "stop": ["ke", "."]}
        whole = client.chat.completions.create(**settings)
        pieces = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        assert text == whole.choices[0].message.content
        assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == whole.choices[0].finish_reason
        assert pieces[-1].usage == whole.usage and "ke" not in text and "." not in text


def test_a_stream_of_the_best_of_several_carries_the_chosen_one(client):
    settings = {"model": "ranker", "messages": ASKED, "max_tokens": 12, "seed": 1, "extra_body": {"best_of": 4}}
    whole = client.chat.completions.create(**settings)
    pieces = client.chat.completions.create(**settings, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content


def test_a_text_is_gone_on_from(client):
    reply = client.completions.create(model="bare", prompt="The miller", max_tokens=9, seed=1, logprobs=1)
    assert reply.object == "text_completion" and 0 < len(reply.choices[0].logprobs.tokens) <= 9
    pieces = client.completions.create(model="bare", prompt="The miller", max_tokens=9, seed=1, stream=True)
    assert "".join(p.choices[0].text for p in pieces) == reply.choices[0].text
    ranked = client.completions.create(model="bare", prompt="The miller", max_tokens=9, seed=1, n=3, best_of=6)
    means = [choice.model_extra["scores"]["logprob:token"] for choice in ranked.choices]
    assert len(means) == 3 and means == sorted(means, reverse=True)


def test_models_say_what_they_can(client):
    cards = {card.id: card.model_extra for card in client.models.list()}
    assert list(cards) == ["ranker", "bare", "layered", "judge"]
    assert cards["ranker"]["heads"] == ["reward", "tone"] and cards["bare"]["heads"] == []
    assert cards["bare"]["context"] == 8192 and not cards["judge"]["answers"]
    assert client.models.retrieve("bare").id == "bare"
    with pytest.raises(openai.NotFoundError, match='Did you mean "bare"'):
        client.models.retrieve("bar")


def test_every_token_has_its_log_prob_on_request(client):
    settings = {"model": "ranker", "messages": ASKED, "max_tokens": 8, "seed": 2, "logprobs": True}
    (choice,) = client.chat.completions.create(**settings).choices
    told = choice.logprobs.content
    mean = sum(token.logprob for token in told) / len(told)
    assert math.isclose(mean, choice.model_extra["scores"]["logprob:token"], rel_tol=1e-6)


# --- the best of several ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "body", "by"),
    [
        ((), {}, "/reward"),
        (("--head", "tone"), {"rank_by": "head", "head": "tone"}, "/tone"),
        (("--by", "logprob"), {"rank_by": "logprob"}, "logprob:token"),
        (("--by", "reward-model", "--reward-model", "judge"), {"rank_by": "reward-model"}, "reward:"),
    ],
)
def test_the_best_over_the_wire_is_what_trueline_rank_keeps(server, folders, capsys, words, body, by):
    """The same seed, the same candidates, the same numbers, the same choice."""
    questions = folders / "questions.txt"
    questions.write_text(f"{QUESTION}\nWhy?\nWhere does the miller live?\n")
    words = tuple(str(folders / word) if word == "judge" else word for word in words)
    common = ["--policy", str(folders / "ranker"), "--prompts", str(questions), "--store", str(folders / "store")]
    assert cli.main(["rank", *common, "-n", "8", "--max-tokens", "16", "--seed", "5", "--top-p", "0.95", *words]) == 0
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith(("judge ", "best "))]
    everything, kept = (
        list(read_jsonl(next(folders.glob(f"store/groups/{n.rpartition('/')[2]}/*.jsonl")), Group)) for n in names
    )
    settings = {"best_of": 8, "max_tokens": 16, "seed": 5, "top_p": 0.95, "candidates": True, **body}
    for group, best in zip(everything, kept, strict=True):
        asked = {"messages": [{"role": "user", "content": group.prompt.text}], **settings}
        status, reply, _ = server.ask("/v1/chat/completions", asked)
        assert status == 200
        assert reply["choices"][0]["message"]["content"] == best.completions[0].text
        found = sorted(reply["trueline"]["candidates"], key=lambda c: c["index"])
        assert [c["text"] for c in found] == [c.text for c in group.completions]
        (signed,) = {f.by for of in group.feedback for f in of if by in f.by}
        numbers = [c["scores"][reply["trueline"]["by"]] for c in found]
        assert numbers == pytest.approx(group.scores(signed), abs=1e-4)


def test_only_who_is_asked_reads_and_candidates_are_told_by_all(server):
    body = {"messages": ASKED, "best_of": 3, "max_tokens": 6, "seed": 1}
    (choice,) = server.ask("/v1/chat/completions", body)[1]["choices"]
    assert set(choice["scores"]) == {"logprob:token", "ranker/reward", "ranker/tone"}
    plain = server.ask("/v1/chat/completions", {"messages": ASKED, "max_tokens": 6})[1]
    assert set(plain["choices"][0]["scores"]) == {"logprob:token"} and "candidates" not in plain["trueline"]
    shown = server.ask("/v1/chat/completions", body | {"candidates": True, "n": 2})[1]
    assert len(shown["choices"]) == 2 and len(shown["trueline"]["candidates"]) == 3
    assert {"judge/quality", "ranker/tone"} < set(shown["choices"][0]["scores"])


def test_rewards_of_given_conversations_are_those_of_the_heads(server):
    """What the head read while it wrote is what it says of the text, where its tokens are the text's own."""
    body = {"messages": ASKED, "best_of": 4, "max_tokens": 4, "seed": 2, "candidates": True}
    found = server.ask("/v1/chat/completions", body)[1]["trueline"]["candidates"]
    conversations = [[*ASKED, {"role": "assistant", "content": c["text"]}] for c in found]
    status, said, _ = server.ask("/v1/rewards", {"conversations": conversations})
    assert status == 200 and said["model"] == "judge"  # a reward model that is served reads, unless another is named
    assert [row["rewards"]["quality"] for row in said["data"]] == pytest.approx(
        [c["scores"]["judge/quality"] for c in found], abs=1e-4
    )
    single = server.ask("/v1/rewards", {"model": "ranker", "messages": conversations[0]})[1]
    assert set(single["data"][0]["rewards"]) == {"reward", "tone"}


def test_a_head_that_decoding_cannot_read_ranks_by_a_pass(server):
    """It reads a layer, which the states of decoding do not show."""
    body = {"model": "layered", "messages": ASKED, "best_of": 4, "max_tokens": 8, "seed": 2, "candidates": True}
    reply = server.ask("/v1/chat/completions", body)[1]["trueline"]
    rewards = [c["scores"]["layered/deep"] for c in reply["candidates"]]
    assert reply["by"] == "layered/deep" and rewards == sorted(rewards, reverse=True) and len(set(rewards)) > 1
    conversations = [[*ASKED, {"role": "assistant", "content": c["text"]}] for c in reply["candidates"]]
    read = server.ask("/v1/rewards", {"model": "layered", "conversations": conversations})[1]["data"]
    assert [row["rewards"]["deep"] for row in read] == pytest.approx(rewards, abs=1e-4)


# --- conditions ------------------------------------------------------------------------------------------------------


def test_a_condition_stands_in_front_of_the_prompt_and_the_seed_stays_the_bare_prompts(server):
    plain = {"messages": ASKED, "max_tokens": 10, "seed": 4, "temperature": 0}
    best = server.ask("/v1/chat/completions", plain | {"condition": "best"})[1]
    spelt = {"messages": [{"role": "user", "content": "Good. " + QUESTION}]}
    said = server.ask("/v1/chat/completions", plain | spelt)[1]
    assert best["choices"][0]["message"] == said["choices"][0]["message"]
    assert best["trueline"]["condition"] == "Good. "
    text = server.ask("/v1/chat/completions", plain | {"condition": "Good. "})[1]
    assert text["choices"][0]["message"] == best["choices"][0]["message"]
    status, refused, _ = server.ask("/v1/chat/completions", plain | {"condition": "worst"})
    assert status == 400 and refused["error"]["param"] == "condition" and "--worst" in refused["error"]["message"]


# --- curl, and the rest ----------------------------------------------------------------------------------------------


def test_curl_is_enough(server):
    said = subprocess.run(
        ["curl", "-sS", server.url + "/v1/chat/completions", "-d", json.dumps({"messages": ASKED, "max_tokens": 5})],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(said)["choices"][0]["message"]["content"]
    streamed = subprocess.run(
        ["curl", "-sSN", server.url + "/v1/completions", "-d", '{"prompt": "The", "max_tokens": 5, "stream": true}'],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert streamed.startswith("data: {") and streamed.endswith("data: [DONE]\n\n")


def test_health_and_numbers(server):
    assert server.ask("/health")[:2] == (200, {"status": "ok"})
    before = server.meter('trueline_tokens_total{kind="written"}')
    reply = server.ask("/v1/chat/completions", {"messages": ASKED, "n": 3, "max_tokens": 5})[1]
    after = server.meter('trueline_tokens_total{kind="written"}')
    assert after - before == reply["usage"]["completion_tokens"]
    assert server.until("trueline_requests_in_flight", 0) and server.until("trueline_rows", 0)


def test_the_prompts_id_is_what_seeds_go_by(server):
    """Messages of parts and a developer's role are the same prompt as text and a system's."""
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        *ASKED,
    ]
    plain = [{"role": "system", "content": "Be brief."}, *ASKED]
    settings = {"max_tokens": 8, "seed": 9}
    one, other = (server.ask("/v1/chat/completions", {"messages": m, **settings})[1]["choices"] for m in (parts, plain))
    assert one == other
