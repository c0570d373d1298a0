"""Tiny model folders made on the spot: a byte-level tokenizer trained on a few lines, and random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

TEXT = [
    "Who bakes the bread in the old town? Ada bakes the bread, and Bert sells it at the market every morning.",
    "Where does the miller live? The miller lives beside the river, two streets from the blue house.",
    "Please tell me politely who keeps the keys of the tower. Gladly: Clara keeps the keys of the tower.",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(chat=True, eos="<|endoftext|>", size=400):
    """A byte-level BPE tokenizer, with ChatML tokens and template if `chat`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [t for t in (eos, "<|pad|>", *(("<|im_start|>", "<|im_end|>") if chat else ())) if t]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=eos or None, pad_token="<|pad|>")
    if chat:
        made.chat_template = CHATML
    return made


def model(vocabulary, seed=0, **changes):
    """A random Llama of some tens of thousands of parameters."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(LlamaConfig(**(sizes | changes)))


def folder(path, chat=True, eos="<|endoftext|>", seed=0, **changes) -> Path:
    """A Hugging Face folder at `path` with both."""
    made = tokenizer(chat, eos)
    model(len(made), seed, **changes).save_pretrained(path)
    made.save_pretrained(path)
    return Path(path)
