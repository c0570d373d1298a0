"""`as_classifier` and `from_classifier`: rewards that plain transformers and TRL read from the folder written."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from tests import folders
from tests.feedback import policies
from trueline import heads, models, trie
from trueline.errors import UserError
from trueline.feedback.classifier import Classifier
from trueline.feedback.reward import Reward
from trueline.heads import AttentionPooler, Head, Layer, WeightedSum
from trueline.heads.classification import as_classifier, from_classifier
from trueline.models import pretrained
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Message, Preference, Prompt, write_jsonl
from trueline.store import Groups, using
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.stage import train
from trueline.train.views import Pairs
from trueline.world import MODELS

SAID = (
    (("user", "Who bakes?"), ("assistant", "Ada bakes the bread, and gladly, every morning.")),
    (("user", "Where does the miller live?"), ("assistant", "No.")),
    (("user", "Hello"), ("assistant", "Good day."), ("user", "Who keeps the keys?"), ("assistant", "Clara, I think.")),
)


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def policy(path, head=None, template=""):
    """A random policy with a head large enough to tell answers apart."""
    folder = folders.folder(path / "base")
    if template:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
    opened = models.load(folder, full=True)
    made = (head or Head(("reward", "tone"))).build(opened.model, 1, opened.renderer)
    for weight in made.out.parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(2))
    models.save(opened.model, opened.tokenizer, path / "policy", made)
    return pretrained(path / "policy")


def told(said):
    return tuple(Message(role, content) for role, content in said)


def read(made, said=SAID, chat="auto", head=0):
    """What our head reads at the end-of-turn that closes each conversation."""
    opened = models.load(made, chat=chat, full=True)
    closed = [(opened.renderer.prompt_ids(m[:-1]), opened.renderer.answer_ids(m[-1].content)) for m in map(told, said)]
    return heads.rewards(opened, [trie.Sequence.of(p, a) for p, a in closed])[:, head].tolist()


def by_transformers(folder, said=SAID, side="right"):
    """Plain transformers: chat template, padding, logits."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForSequenceClassification.from_pretrained(folder)
    rows = [[{"role": role, "content": content} for role, content in one] for one in said]
    given = tokenizer(
        tokenizer.apply_chat_template(rows, tokenize=False), return_tensors="pt", padding=True, padding_side=side,
        add_special_tokens=False,
    )  # fmt: skip
    with torch.no_grad():
        return net(**given).logits[:, 0].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_plain_transformers_reads_the_rewards(side, tmp_path):
    """ChatML ends a conversation with a line break after its end-of-turn: the folder's own template leaves it out, or
    the logit would be that of another token. Turns between keep it."""
    reward = policy(tmp_path)
    made = make(as_classifier(reward))
    assert by_transformers(made.folder, side=side) == pytest.approx(read(reward), abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    rows = [{"role": role, "content": content} for role, content in SAID[2]]
    text = tokenizer.apply_chat_template(rows, tokenize=False)
    assert text.endswith("Clara, I think.<|im_end|>") and "Good day.<|im_end|>\n<|im_start|>user" in text
    assert tokenizer.apply_chat_template(rows[:3], tokenize=False, add_generation_prompt=True).endswith("assistant\n")
    assert made.record["notes"]["largest_difference"] < 1e-5


def test_one_of_several_heads_is_chosen_by_name_and_names_the_label(tmp_path):
    reward = policy(tmp_path)
    made = make(as_classifier(reward, head="tone"))
    assert by_transformers(made.folder) == pytest.approx(read(reward, head=1), abs=1e-5)
    assert AutoModelForSequenceClassification.from_pretrained(made.folder).config.id2label == {0: "tone"}


def test_trl_reads_the_rewards(tmp_path):
    """As its GRPO trainer asks a reward model, and as its `get_reward` does (lengths found by the padding)."""
    data_utils = pytest.importorskip("trl.data_utils", reason="the peer library trl is not installed (extra `bench`)")
    utils = pytest.importorskip("trl.experimental.utils")
    reward = policy(tmp_path)
    made = make(as_classifier(reward))
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    net = AutoModelForSequenceClassification.from_pretrained(made.folder, num_labels=1)
    rows = [{"messages": [{"role": role, "content": content} for role, content in one]} for one in SAID]
    texts = [data_utils.apply_chat_template(row, tokenizer)["text"] for row in rows]
    given = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.inference_mode():
        scored = net(**given).logits[:, 0].tolist()
        _, found, _ = utils.get_reward(net, given["input_ids"], tokenizer.pad_token_id, 1)
    assert scored == pytest.approx(read(reward), abs=1e-5)
    assert found.tolist() == pytest.approx(read(reward), abs=1e-5)


def test_padding_that_is_the_end_of_turn_gets_a_token_of_its_own(tmp_path):
    """Plain text ends with EOS; were it the padding too, transformers would read the token before it (trap 30)."""
    folder = folders.folder(tmp_path / "base", chat=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    opened = models.load(folder, full=True, chat="plain")
    made = Head().build(opened.model, 1)
    torch.nn.init.normal_(made.out.weight, std=0.5)
    models.save(opened.model, opened.tokenizer, tmp_path / "policy", made)
    reward, said = pretrained(tmp_path / "policy"), SAID[:2]
    written = make(as_classifier(reward, chat="plain"))
    kept = AutoTokenizer.from_pretrained(written.folder)
    assert kept.pad_token == "<|pad|>" != kept.eos_token
    assert by_transformers(written.folder, said) == pytest.approx(read(reward, said, "plain"), abs=1e-5)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}\n",
        "{% set who = 'said' %}{% for m in messages %}<|im_start|>{{ m['role'] }} {{ who }}\n{{ m['content'] | trim }}"
        "<|im_end|>\n\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant said\n{% endif %}",
    ],
)
def test_templates_that_write_no_end_or_more_after_it(template, tmp_path):
    """The first closes no turn: EOS is put there, as in training. The second trims, and writes two line breaks."""
    reward = policy(tmp_path, template=template)
    assert by_transformers(make(as_classifier(reward)).folder) == pytest.approx(read(reward), abs=1e-5)


def test_tokens_that_run_across_a_boundary_are_found_out(tmp_path):
    """ "[assistant] " ends in a space that one-piece tokenisation joins to the answer's first word: other tokens than
    the policy was trained on, so the logits are not the rewards, and the folder is not made."""
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    reward = policy(tmp_path, template=template + "{% if add_generation_prompt %}[assistant] {% endif %}")
    with pytest.raises(UserError, match=r"logits and rewards differ by up to 0\..*trueline check"):
        make(as_classifier(reward))


def test_what_a_label_cannot_hold_is_refused(tmp_path):
    """A pooler, other layers, attention over turns, a bias; the final state by its number is the final state."""
    refused = {
        "swiglu_bert": Head(pooler="swiglu_bert"), "Layer": Head(aggregate=Layer(1)),
        "WeightedSum": Head(aggregate=WeightedSum((0, 1))), "AttentionPooler": Head(aggregate=AttentionPooler()),
        "adds a bias": Head(bias=True),
    }  # fmt: skip
    for number, (said, head) in enumerate(refused.items()):
        with pytest.raises(UserError, match=said) as error:
            make(as_classifier(policy(tmp_path / str(number), head)))
        assert "Reward(policy)" in str(error.value) or "Train one so" in str(error.value)
    last = policy(tmp_path / "last", Head(aggregate=Layer(-1)))
    assert by_transformers(make(as_classifier(last)).folder) == pytest.approx(read(last), abs=1e-5)
    with pytest.raises(UserError, match="it has no heads"):
        make(as_classifier(pretrained(folders.folder(tmp_path / "bare"))))


def test_a_classifier_as_a_critic_and_as_a_start(tmp_path):
    """Written and read back: both critics say the same of every answer, and so does the head that came back."""
    reward = policy(tmp_path)
    written = as_classifier(reward)
    again = make(from_classifier(written))
    asked = policies.groups()
    ours, theirs, back = (
        [f[-1].score for group in critic(asked) for f in group.feedback]
        for critic in (Reward(reward), Classifier(written), Reward(again))
    )
    assert ours == pytest.approx(theirs, abs=1e-5) and ours == pytest.approx(back, abs=1e-5)
    opened = models.load(again)
    assert opened.heads.names == ("reward",)
    assert float(opened.model.get_output_embeddings().weight.abs().max()) == 0  # it rates, and cannot write


@stage(Groups, name="compared_for_a_classifier")
def compared(work: Work) -> None:
    """Two answers to each of twenty questions, the first preferred."""
    preferred = Preference(0, 1, 1.0, "rule")
    asked = [Prompt.of(f"Who lives at number {n}?", id=f"q{n}") for n in range(20)]
    said = [(Completion(f"Gladly. {prompt.text}"), Completion("No.")) for prompt in asked]
    groups = [Group(prompt, of, (), (preferred,)) for prompt, of in zip(asked, said, strict=True)]
    write_jsonl(work.dir / "groups.jsonl", groups)


def test_training_starts_from_a_classifier_and_ends_as_one(tmp_path):
    """A reward model of transformers, trained on with Bradley-Terry, and written in its own layout again."""
    tokenizer = folders.tokenizer()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "num_labels": 1,
    }  # fmt: skip
    net = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    net.config.pad_token_id = tokenizer.pad_token_id
    net.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    with pytest.raises(UserError, match=r"writes '\\n' after the last end-of-turn.*Classifier\(folder\)"):
        make(from_classifier(pretrained(tmp_path / "rm")))
    start = from_classifier(pretrained(tmp_path / "rm"), exact=False)
    trained = train(start, Pairs(compared()), BradleyTerry(), epochs=3, lr=1e-3, max_length=128)
    folder = make(as_classifier(trained)).folder
    said = [(("user", "Who lives at number 3?"), ("assistant", x)) for x in ("Gladly. Who lives at number 3?", "No.")]
    better, worse = by_transformers(folder, said)
    assert better > worse and [better, worse] == pytest.approx(read(trained, said), abs=1e-5)


def test_a_classifier_is_no_language_model(tmp_path):
    """Its output embeddings would be random: nothing samples from it, or reads log-probs of it, by mistake."""
    made = make(as_classifier(policy(tmp_path)))
    with pytest.raises(UserError, match=r"weights of lm_head.weight are not there.*from_classifier"):
        models.load(made.folder)


def test_the_town_s_model_comes_out_too(tmp_path):
    """Weights that mean something, and embeddings that are tied: 1e-5 holds there as well."""
    opened = models.load(MODELS / "tiny", full=True)
    made = Head().build(opened.model, 1)
    torch.nn.init.normal_(made.out.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    models.save(opened.model, opened.tokenizer, tmp_path / "policy", made)
    reward = pretrained(tmp_path / "policy")
    written = as_classifier(reward)
    assert by_transformers(make(written).folder) == pytest.approx(read(reward), abs=1e-5)
    with pytest.raises(UserError, match=r"it has no heads.*from_classifier makes a policy of it"):
        Reward(written)(policies.groups())
    assert read(make(from_classifier(written))) == pytest.approx(read(reward), abs=1e-5)
