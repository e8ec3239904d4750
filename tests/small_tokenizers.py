"""Small real tokenizers of the kinds that bases have, trained on a few sentences, and chat templates to go with them.

letters     one token a character: what a test works out by hand
bytes       byte-level BPE (Qwen, Phi-4, GPT-2)
composed    the same behind NFC, as Qwen2.5's
metaspace   a space before the first word, bytes for what is unknown (Llama 2, Phi-3, Mistral)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.checkpoints import SPECIALS

KINDS = ("bytes", "composed", "metaspace")
FILES = Path(__file__).parent / "data_files"
MORE_SPECIALS = [*SPECIALS, "<|user|>", "<|end|>", "<|assistant|>", "<|system|>", "<start_of_turn>", "<end_of_turn>", "<bos>"]
NOT_SPECIAL = ["<think>", "</think>", "\n\n\n", "<table>"]
"""Tokens of their own that transformers does not call special: a part of Qwen3's turns, blanks and markup in Gemma's."""
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ '<start_of_turn>' + message.role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
SENTENCES = [
    "Solar thermal power is cheap; solar panels are cheaper, and wind is everywhere. The score is 10 of 10.\n\n",
    '{"tech":"solar","score":7.5,"reasoning":"the text reports a bridge","relevant":true,"tags":["a","b"]}\n\n',
    "Η πυρκαγιά στο δάσος έφτασε στα σπίτια. De rivier staat hoog. O rio subiu muito esta noite.\n\n",
]


@cache
def tokenizer(kind: str, template: str | None = None) -> Any:
    """`template` is the text of a chat template; None: a base that was never taught to chat."""
    from transformers import PreTrainedTokenizerFast

    made = {"letters": _letters, "bytes": _bytes, "composed": _composed, "metaspace": _metaspace}[kind]()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token=SPECIALS[2], chat_template=template, clean_up_tokenization_spaces=False
    )


def chat_template(name: str) -> str:
    return GEMMA if name == "gemma" else (FILES / f"chat_template_{name}.jinja").read_text(encoding="utf-8")


def _with_specials(made: Any, plain: Sequence[str] = NOT_SPECIAL) -> Any:
    from tokenizers import AddedToken

    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in MORE_SPECIALS])
    made.add_tokens([AddedToken(text, normalized=False) for text in plain])
    return made


def _letters() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({chr(i): i for i in range(128)} | {"?!": 128}, unk_token="?!"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return _with_specials(made, plain=[])


def _bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(SENTENCES * 2, trainer)
    return _with_specials(made)


def _composed() -> Any:
    from tokenizers import normalizers

    made = _bytes()
    made.normalizer = normalizers.NFC()
    return made


def _metaspace() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned.train_from_iterator(SENTENCES * 2, trainers.BpeTrainer(vocab_size=300, max_token_length=16, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(pair) for pair in model["merges"]]
    made = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = learned.normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    _with_specials(made)
    made.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", made.token_to_id("<bos>"))])
    return made
