"""A vocabulary with added tokens: rows of the embeddings, plain transformers, heads, references without them."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import folders
from tests.train.town import town
from trueline import models
from trueline.chat import Renderer
from trueline.errors import UserError
from trueline.heads import Head
from trueline.pipeline import make, stage
from trueline.records import Completion, Group, Message, Prompt, write_jsonl
from trueline.store import Groups
from trueline.train.extend import beyond, extend, fill
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.objectives.kl import KLToReference
from trueline.train.stage import freeze_parts, train
from trueline.train.views import Answer, Demonstrations, Example, Pairs

TOKENS = ("_Q_0_", "_Q_1_", " _TREE_00000")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TRUELINE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def start(tmp_path, **changes):
    return models.pretrained(folders.folder(tmp_path / "tiny", **changes))


def both(policy):
    return AutoModelForCausalLM.from_pretrained(policy.folder), AutoTokenizer.from_pretrained(policy.folder)


def test_quantile_tokens_for_plain_transformers(tmp_path, store):
    """Each is one token wherever it stands in a message, and nothing else has changed."""
    base = start(tmp_path)
    policy = make(extend(base, TOKENS))
    model, tokenizer = both(policy)
    old, before = both(base)
    assert len(tokenizer) == len(before) + 3 == model.get_input_embeddings().weight.shape[0]
    numbers = tokenizer.convert_tokens_to_ids(list(TOKENS))
    assert numbers == list(range(len(before), len(before) + 3))
    rendered = Renderer(tokenizer).prompt_ids((Message("user", TOKENS[0] + "Who bakes?"),))
    plain = Renderer(before).prompt_ids((Message("user", "Who bakes?"),))
    assert [i for i in rendered if i not in numbers] == plain and rendered.count(numbers[0]) == 1
    for name, p in old.named_parameters():
        assert torch.equal(model.get_parameter(name)[: len(p)], p)
    assert policy.record["counts"]["added_tokens"] == 3 and policy.parents == (base,)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_new_rows_are_drawn_around_the_old_ones(tmp_path, store, tied):
    """A fresh draw per token, in each table by its own rows; the same from the same seed."""
    base = start(tmp_path, tie_word_embeddings=tied)
    one, other = make(extend(base, TOKENS)), make(extend(base, TOKENS, seed=1))
    (model, _), (again, _) = both(one), both(other)
    n = len(model.lm_head.weight) - 3
    tables = [m.weight for m in (model.get_input_embeddings(), model.lm_head)]
    assert (tables[0] is tables[1]) == tied
    for rows in tables:
        apart = (rows[n:] - rows[:n].mean(0)) / rows[:n].std(0)
        assert 0.5 < apart.std() < 1.5 and apart.mean().abs() < 0.5
        assert not torch.equal(rows[n], rows[n + 1])
    assert not torch.equal(tables[0][n:], again.get_input_embeddings().weight[n:])
    assert tied or not torch.equal(tables[0][n:], tables[1][n:])


def test_draws_follow_the_statistics_of_each_dimension():
    """Dimensions of means 5 and -1 and deviations 2 and 0.1, over 4000 draws; padding rows below count for nothing."""
    rows = torch.full((5010, 2), 100.0)
    rows[:1000] = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([2.0, 0.1])
    rows[:1000] += torch.tensor([5.0, -1.0])
    kept = rows[:1000].clone()
    fill(rows, 1000, 5000, None, torch.Generator().manual_seed(0))
    assert torch.equal(rows[:1000], kept) and (rows[5000:] == 100).all()
    torch.testing.assert_close(rows[1000:5000].mean(0), kept.mean(0), rtol=0.1, atol=0.02)
    torch.testing.assert_close(rows[1000:5000].std(0), kept.std(0), rtol=0.05, atol=0.01)


@pytest.mark.parametrize(("like", "copied"), [("", "<|im_end|>"), ("<|endoftext|>", "<|endoftext|>")])
def test_a_separator_copied_from_another_token(tmp_path, store, like, copied):
    model, tokenizer = both(make(extend(start(tmp_path), ("<|separator|>",), init="copy", like=like)))
    new, old = tokenizer.convert_tokens_to_ids(["<|separator|>", copied])
    for rows in (model.get_input_embeddings().weight, model.lm_head.weight):
        assert torch.equal(rows[new], rows[old])


def test_tokens_in_the_padding_of_a_table(tmp_path, store):
    """A table with 30 rows more than tokens is not made larger: the new tokens take the first of them."""
    tokenizer = folders.tokenizer()
    folder = tmp_path / "padded"
    folders.model(len(tokenizer) + 30).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, extended = both(make(extend(models.pretrained(folder), TOKENS)))
    before = AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
    assert model.lm_head.weight.shape == before.shape and len(extended) == len(tokenizer) + 3
    changed = (model.lm_head.weight != before).any(1).nonzero()[:, 0].tolist()
    assert changed == extended.convert_tokens_to_ids(list(TOKENS))
    assert beyond(extended, tokenizer) == tuple(changed)


def test_a_base_model_gets_its_template_first(tmp_path, store):
    """So that its tokens have the same ids where the start is opened as the reference."""
    base = start(tmp_path, chat=False)
    _, tokenizer = both(make(extend(base, TOKENS)))
    opened = models.load(base).tokenizer
    assert beyond(tokenizer, opened) == tuple(tokenizer.convert_tokens_to_ids(list(TOKENS)))
    _, plain = both(make(extend(base, TOKENS, chat="plain")))
    assert "<|im_end|>" not in plain.get_vocab()


def test_heads_stay(tmp_path, store):
    reward = train(start(tmp_path), Pairs(town(4)), BradleyTerry(), lr=1e-3, batch_size=4)
    policy = make(extend(reward, TOKENS))
    ours, before = models.load(policy.folder).heads, models.load(reward.folder).heads
    assert ours.names == before.names and torch.equal(ours.out.weight, before.out.weight)
    assert ours.spec == Head()


def test_refuses_tokens_that_are_none(tmp_path, store):
    base = start(tmp_path)
    for tokens, said in (
        ("_Q_", "a tuple of texts"),
        ((), "a tuple"),
        (("a", "a"), "each token once"),
        (("",), "tuple"),
    ):
        with pytest.raises(UserError, match=said):
            extend(base, tokens)
    with pytest.raises(UserError, match='"normal" or "copy"'):
        extend(base, TOKENS, init="zero")
    with pytest.raises(UserError, match="no effect"):
        extend(base, TOKENS, like="<|im_end|>")
    with pytest.raises(UserError, match="is not one token"):
        make(extend(base, TOKENS, init="copy", like="no such token"))


def test_refuses_tokens_that_are_there(tmp_path, store):
    once = extend(start(tmp_path), TOKENS[:2])
    with pytest.raises(UserError, match="It was extended with them before"):
        make(extend(once, TOKENS[:2]))
    with pytest.raises(UserError, match="Add the other ones"):
        make(extend(once, TOKENS))


def test_refuses_tokens_that_a_template_takes_apart(tmp_path, store):
    """A template that strips contents leaves nothing of a leading space."""
    folder = folders.folder(tmp_path / "tiny")
    tokenizer = folders.tokenizer()
    tokenizer.chat_template = folders.CHATML.replace("m['content']", "m['content'] | trim")
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="does not hold the token"):
        make(extend(models.pretrained(folder), (" _TREE_00000",)))


@stage(Groups, estimate=lambda n, **_: {"groups": n, "samples": n})
def said(work, n: int, broken: int = 0) -> None:
    """Answers to learn; `broken` of them hold an added token."""
    texts = [f"Ada bakes number {k}." + " _Q_1_" * (k < broken) for k in range(n)]
    groups = [Group(Prompt.of(f"Who bakes bread number {k}?"), (Completion(text),)) for k, text in enumerate(texts)]
    write_jsonl(work.dir / "groups.jsonl", groups)


class Behind(Demonstrations):
    """Every answer behind the first quantile's token."""

    def examples(self):
        for group in self.groups.read():
            (completion,) = group.completions
            yield Example(group.prompt.messages, (Answer.of(completion),), condition=TOKENS[0], rank=0)


def test_a_quark_step_beside_the_start(tmp_path, store):
    """The start knows no quantile token, sees bare prompts, and is 0 away from itself; an answer that holds a quantile
    token is dropped. What needs the same vocabulary refuses the start."""
    base = start(tmp_path)
    policy = extend(base, TOKENS)
    view = Behind(said(20, broken=1))
    learned = train(policy, view, ConditionalLM(), reference=base, lr=1e-2, batch_size=10, freeze=("blocks[:-1]",))
    make(learned)
    rows = [json.loads(line) for line in (learned.path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl/token"] > 0 and rows[0]["nll"] == rows[0]["nll/class 0"]
    assert learned.record["counts"]["examples"] == 19
    assert "the reference does not know" in (learned.path / "dropped.jsonl").read_text()
    after, before = (dict(models.load(p.folder).model.named_parameters()) for p in (learned, policy))
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert moved == {name for name in after if "layers.0." not in name}
    with pytest.raises(UserError, match=f"it has {len(after['lm_head.weight']) - 3} tokens"):
        make(train(policy, view, KLToReference(), reference=base))
    with pytest.raises(UserError, match="has no use for it"):
        train(policy, view, ConditionalLM(kl=0), reference=base)


def test_an_unconditioned_policy_is_nowhere_from_its_start(tmp_path, store):
    base = start(tmp_path)
    learned = make(train(extend(base, TOKENS), Demonstrations(said(4)), ConditionalLM(), reference=base, batch_size=4))
    (row,) = [json.loads(line) for line in (learned.path / "metrics.jsonl").read_text().splitlines()]
    assert abs(row["kl/token"]) < 1e-6


def test_vocabularies_that_do_not_nest_are_refused():
    ours, theirs = folders.tokenizer(), folders.tokenizer()
    theirs.add_tokens(["_Q_0_"])
    with pytest.raises(UserError, match="not in the policy's"):
        beyond(ours, theirs)
    ours.add_tokens(["_Q_1_", "_Q_0_"])
    with pytest.raises(UserError, match=r'"_Q_0_" is \d+ in its vocabulary and \d+ in the policy\'s'):
        beyond(ours, theirs)


def test_blocks_are_named_as_python_counts(tmp_path):
    """Of four blocks the last one, or all but the first: frozen parameters by name."""

    def frozen(*names):
        model = folders.model(64, num_hidden_layers=4)
        left = freeze_parts(model, names)
        assert left == sum(p.numel() for p in model.parameters() if p.requires_grad)
        return sorted({name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad})

    assert frozen("blocks[:-1]") == frozen("blocks[:3]") == frozen("blocks[0:2]", "blocks[2:3]") == ["0", "1", "2"]
    assert frozen("blocks[1:]") == ["1", "2", "3"] and frozen("blocks[:]") == frozen("blocks") == ["0", "1", "2", "3"]
    for empty in ("blocks[:-0]", "blocks[:-4]", "blocks[7:]"):
        with pytest.raises(UserError, match="no such blocks among 4"):
            frozen(empty)
    with pytest.raises(UserError, match="no parameter's name holds"):
        frozen("blocks[0]")
