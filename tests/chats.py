"""Small real tokenizers, and chat templates in the manner of the families in use, for tests of rendering."""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "Who bakes the bread? Ada bakes the bread, and Ben sells it at the market on Sunday.",
    "user assistant system model You are a helpful assistant. Sure. Yes, no.\n\nOne\nTwo [INST] [/INST]",
    "The ferry leaves at nine; be there early, please. Hello there! How are you today?",
] * 4

QWEN2 = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The last answer gets an empty thinking block, and thinking of earlier turns is taken away.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' + m.content.lstrip('\n') }}"
    "{% elif m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# The space before the answer is not in the generation prompt; the system message moves into the last question.
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set turns = messages[1:] if system else messages %}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' and loop.last and system %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# White space on both sides of the answer, before the end of the turn too.
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# The generation prompt opens a thought that the finished conversation does not show.
REASONER = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
# No token ends a turn.
VICUNA = (
    "{% for m in messages %}{{ ('USER: ' if m.role == 'user' else 'ASSISTANT: ') + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CONTROLS = {
    "qwen2": (QWEN2, ["<|im_start|>", "<|im_end|>"]),
    "qwen3": (QWEN3, ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]),
    "llama3": (LLAMA3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": (MISTRAL, []),
    "mistral3": (MISTRAL, ["[INST]", "[/INST]"]),
    "llama2": (LLAMA2, []),
    "gemma": (GEMMA, ["<start_of_turn>", "<end_of_turn>"]),
    "zephyr": (ZEPHYR, []),
    "reasoner": (REASONER, ["<|user|>", "<|assistant|>", "<think>"]),
    "vicuna": (VICUNA, []),
}
ENDS = {"qwen2": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}


def wrap(tokenizer: Tokenizer, **names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_level(add_prefix_space: bool = False) -> Any:
    """A byte-level BPE tokenizer (GPT-2's kind), with <s> and </s>."""
    return wrap(Tokenizer.from_str(trained_byte_level(add_prefix_space)), bos_token="<s>", eos_token="</s>")


@functools.cache
def trained_byte_level(add_prefix_space: bool) -> str:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    inner.train_from_iterator(TEXTS, trainer)
    return str(inner.to_str())


def sentence_piece(scheme: str) -> Any:
    """A SentencePiece-type BPE tokenizer: a dummy space at the start ("first"), or after each special token too
    ("always", or as a normaliser: "legacy"); characters it does not know become bytes."""
    return wrap(
        Tokenizer.from_str(trained_sentence_piece(scheme)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@functools.cache
def trained_sentence_piece(scheme: str) -> str:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    words.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200))
    learnt = json.loads(words.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *(p for p in learnt["vocab"] if p != "\n")])}
    merges = [tuple(pair) for pair in learnt["merges"] if "\n" not in "".join(pair)]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if scheme == "legacy":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        spaces = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=False)]
    inner.decoder = decoders.Sequence(spaces)
    return str(inner.to_str())


def whitespace(*words: str) -> Any:
    """A tokenizer whose tokens are words and single white-space characters other than the space."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", "\n", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    from tokenizers import Regex

    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(Regex(" "), "removed")]
    )
    return wrap(inner, eos_token="</s>", unk_token="<unk>")


def with_template(tokenizer: Any, family: str) -> Any:
    """`tokenizer` with the template and the control tokens of a family."""
    template, words = CONTROLS[family]
    tokenizer.add_tokens([AddedToken(w, special=w.strip("</>") != "think", normalized=False) for w in words])
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
    tokenizer.chat_template = template
    return tokenizer
