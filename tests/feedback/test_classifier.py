"""`Classifier` against a plain forward pass per text: the right token, alone as in a batch, the text put together."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests import folders
from tests.feedback import policies
from trueline.errors import UserError
from trueline.feedback.classifier import Classifier
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Critic
from trueline.fingerprint import fingerprint
from trueline.machine import Machine
from trueline.machine import using as using_machine
from trueline.models import pretrained
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups, using

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
TEXTS = (("Ada bakes it.", "Go away.", "Ada bakes the bread, and gladly. " * 3), ("The miller lives here.", "No"))


@stage(Groups, name="classified_answers")
def answers(work: Work) -> None:
    write_jsonl(work.dir / "groups.jsonl", policies.groups(TEXTS))


def reward_model(path, **config):
    """A random Llama with one logit; its chat template is ChatML."""
    tokenizer = folders.tokenizer()
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": None} | SIZES | config
    model = LlamaForSequenceClassification(LlamaConfig(**sizes))
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def word_pieces():
    """A tokenizer in the manner of BERT, which puts [CLS] and [SEP] around a text."""
    words = ["ada", "bakes", "the", "bread", "go", "away", "no", "it", "and", "gladly", ".", ",", "##s"]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*specials, *words])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    around = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def toxicity_classifier(path, **config):
    """A random DistilBert with the labels clean, rude and toxic."""
    tokenizer = word_pieces()
    torch.manual_seed(1)
    labels = ("clean", "rude", "toxic")
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    sizes = {"vocab_size": len(tokenizer), "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4,
             "max_position_embeddings": 64, **named}  # fmt: skip
    model = DistilBertForSequenceClassification(DistilBertConfig(**(sizes | config)))
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def alone(folder, ids):
    """The logits of one text in a batch of its own, by plain transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def judged(critic, groups, store):
    with using(store):
        make(critic.model)
        return [[said[-1] for said in group.feedback] for group in critic(groups)]


@pytest.fixture(scope="module")
def rm(tmp_path_factory):
    return reward_model(tmp_path_factory.mktemp("rm") / "rm")


@pytest.fixture(scope="module")
def tox(tmp_path_factory):
    return toxicity_classifier(tmp_path_factory.mktemp("tox") / "tox")


def test_a_reward_model_reads_the_conversation(rm, tmp_path):
    """Five answers of different lengths in one shard: each has the logit of its rendered conversation alone."""
    tokenizer = folders.tokenizer()
    critic = Classifier(str(rm))
    with using(tmp_path):
        made = make(judge(answers(), critic))
        assert critic.model in judge(answers(), critic).parents
        assert made.record["counts"]["critic_calls"] == made.record["counts"]["scored"] == 5
        for group in made.read():
            for completion, (said,) in zip(group.completions, group.feedback, strict=True):
                rows = [{"role": "user", "content": group.prompt.text}]
                rows.append({"role": "assistant", "content": completion.text})
                ids = tokenizer.apply_chat_template(rows, return_dict=False)
                assert said.score == pytest.approx(alone(rm, ids).item(), abs=1e-5)


@pytest.mark.parametrize("padding", ["none", "end", "own"])
def test_padding_never_moves_the_token_that_is_read(tmp_path, padding):
    """With no padding token, with one that is the end of text (as texts end with), and with one of its own.

    Whatever the batches: a text has the logit it has alone, though some are six times as long as others.
    """
    tokenizer = folders.tokenizer()
    ids = {"none": None, "end": tokenizer.eos_token_id, "own": tokenizer.pad_token_id}
    folder = reward_model(tmp_path / "rm", pad_token_id=ids[padding])
    critic = Classifier(pretrained(folder), template="{asked}\n{answer}<|endoftext|>")
    said = judged(critic, policies.groups(TEXTS), tmp_path / "store")
    with using(tmp_path / "store"), using_machine(Machine(micro_tokens=40)):
        small = [[f[0].score for f in group.feedback] for group in critic(policies.groups(TEXTS))]
    for group, feedback, again in zip(policies.groups(TEXTS), said, small, strict=True):
        for completion, found, other in zip(group.completions, feedback, again, strict=True):
            text = f"{group.prompt.text}\n{completion.text}<|endoftext|>"
            wanted = alone(folder, tokenizer(text)["input_ids"]).item()
            assert found.score == pytest.approx(wanted, abs=1e-5) and other == pytest.approx(wanted, abs=1e-5)


def test_a_text_is_put_together_and_never_cut_at_a_marker(rm, tmp_path):
    """A post that holds the marker and an answer that holds an end of text in words are read whole (trap 18)."""
    critic = Classifier(str(rm), template="{asked}\nTL;DR: {answer}<|endoftext|>")
    group = Group(Prompt.of("TL;DR: none {answer}"), (Completion("TL;DR: b"), Completion("a<|endoftext|> b {asked}")))
    with using(tmp_path):
        make(critic.model)
        with critic:
            opened = vars(critic)["_opened"]
            first, second = (opened.ids(group.prompt, c.text) for c in group.completions)
            scores = [said[0].score for said in critic([group])[0].feedback]
    tokenizer = folders.tokenizer()
    assert tokenizer.decode(first) == "TL;DR: none {answer}\nTL;DR: TL;DR: b<|endoftext|>"
    assert tokenizer.decode(second) == "TL;DR: none {answer}\nTL;DR: a<|endoftext|> b {asked}<|endoftext|>"
    assert [ids.count(tokenizer.eos_token_id) for ids in (first, second)] == [1, 1]
    assert first[:-1] == tokenizer("TL;DR: none {answer}\nTL;DR: TL;DR: b")["input_ids"]
    assert scores == pytest.approx([alone(rm, first).item(), alone(rm, second).item()], abs=1e-5)


def test_a_classifier_of_several_labels(tox, tmp_path):
    """The probability of the label, 1 less it, or its logit; the continuation alone between [CLS] and [SEP]."""
    store, groups = tmp_path / "store", policies.groups((("Go away.", "Ada bakes the bread, and gladly."),))
    kinds = {"toxic": {}, "2": {}, "less": {"less": True}, "logit": {"logit": True, "less": True}}
    found = {}
    for name, options in kinds.items():
        label = name if name in ("toxic", "2") else "toxic"
        said = judged(Classifier(str(tox), label, template="{answer}", **options), groups, store)
        found[name] = [f.score for f in said[0]]
    tokenizer = word_pieces()
    for index, completion in enumerate(groups[0].completions):
        ids = tokenizer(completion.text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"]
        logits = alone(tox, ids)
        share = torch.softmax(logits, -1)[2].item()
        assert [found[name][index] for name in kinds] == pytest.approx(
            [share, share, 1 - share, -logits[2].item()], abs=1e-5
        )


def test_a_config_of_several_labels_at_once_has_a_probability_each(tmp_path):
    folder = toxicity_classifier(tmp_path / "tox", problem_type="multi_label_classification")
    said = judged(
        Classifier(str(folder), "rude", template="{answer}"), policies.groups((("Go away.",),)), tmp_path / "s"
    )
    logits = alone(folder, word_pieces()("Go away.")["input_ids"])
    assert said[0][0].score == pytest.approx(logits[1].sigmoid().item(), abs=1e-5)


def test_what_cannot_be_read_abstains_and_says_why(tox, rm, tmp_path):
    groups = policies.groups((("No", "go away " * 80),))
    short, long = judged(Classifier(str(tox), "toxic", template="{answer}"), groups, tmp_path / "a")[0]
    assert short.score is not None and long.abstained and long.raw == "a text of 162 tokens, the model's longest is 64"
    (empty,) = judged(Classifier(str(rm), template="{answer}"), policies.groups((("",),)), tmp_path / "b")[0]
    assert empty.abstained and empty.raw == "no token to read"


def test_a_critic_is_a_value(rm, tox):
    critic = Classifier(str(tox), "toxic", template="{answer}")
    assert isinstance(critic, Critic) and critic.calls(2, 5) == 5
    assert critic.name == f"classifier:{critic.model.name}:toxic"
    same, others = Classifier(pretrained(tox), "toxic", template="{answer}"), [
        Classifier(str(tox), "rude", template="{answer}"), Classifier(str(tox), "toxic", template=" {answer}"),
        Classifier(str(tox), "toxic", template="{answer}", less=True), Classifier(str(rm), template="{answer}"),
    ]  # fmt: skip
    assert fingerprint(critic) == fingerprint(same)
    assert len({fingerprint(one) for one in [critic, *others]}) == 5


def test_refusals(rm, tox, tmp_path):
    for template in ("{asked}", "{answer} {answer}", "{answers}", "{answer} {who}"):
        with pytest.raises(UserError, match=r"Classifier\(template=...\).*one slot \{answer\}"):
            Classifier(str(tox), template=template)
    groups, store = policies.groups((("No",),)), tmp_path / "store"
    with pytest.raises(UserError, match=r'no label "toxci".*Did you mean "toxic"'):
        judged(Classifier(str(tox), "toxci", template="{answer}"), groups, store)
    with pytest.raises(UserError, match="it has 3 labels and none is chosen"):
        judged(Classifier(str(tox), template="{answer}"), groups, store)
    with pytest.raises(UserError, match=r'no chat template.*template="\{answer\}"'):
        judged(Classifier(str(tox), "toxic"), groups, store)
    with pytest.raises(UserError, match=r"the weights of score.weight are not there"):
        judged(Classifier(str(folders.folder(tmp_path / "causal"))), groups, store)
