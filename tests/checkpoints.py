"""Tiny checkpoints in Hugging Face's layout, random weights, with a small real tokenizer: what tests convert and train.

make_checkpoint(folder, "qwen2", shards=3, dtype="bfloat16", rope_theta=5e5)
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.models.families import complete, family_of

FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "phi3", "gemma2")
"""Model types; `mistral` is of the family llama."""
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCABULARY = 384
LARGEST_TOKENIZER = 512
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu", "head_dim": 32},
    "llama": {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    "mistral": {"architectures": ["MistralForCausalLM"], "hidden_act": "silu", "head_dim": 32, "sliding_window": None},
    "phi3": {"architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "original_max_position_embeddings": 2048},
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh", "head_dim": 32, "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 2048,
    },
}  # fmt: skip


def make_checkpoint(
    folder: Path,
    family: str = "qwen2",
    *,
    tied: bool = True,
    shards: int = 1,
    seed: int = 0,
    dtype: str = "float32",
    vocab: int = VOCABULARY,
    tokenizer: bool = True,
    **config: Any,
) -> Path:
    """`config` overrides keys of config.json; a value of None removes the key. The folder, for chaining."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"model_type": family, **SIZES, **OWN[family], "vocab_size": vocab, "tie_word_embeddings": tied, "torch_dtype": dtype, **config}
    whole = {key: value for key, value in whole.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(whole, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": whole["eos_token_id"]}))
    write_weights(folder, random_weights(whole, seed), dtype, shards)
    if tokenizer:
        save_tokenizer(folder, vocab)
    return folder


def random_weights(config: dict[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    """Matrices with a spread at which logits differ from token to token, norms near the identity."""
    generator = np.random.default_rng(seed)
    known = family_of(config)
    identity = 0.0 if config["model_type"] == "gemma2" else 1.0  # gemma's norms multiply by 1 + weight
    weights = {}
    for name, shape in known.shapes(complete(config, known)).items():
        spread = 0.1 if len(shape) == 1 else shape[-1] ** -0.5
        noise = generator.normal(0, spread, shape).astype(np.float32)
        weights[name] = noise + identity if name.endswith("norm.weight") else noise
    return weights


def write_weights(folder: Path, weights: dict[str, NDArray[np.float32]], dtype: str = "float32", shards: int = 1) -> None:
    """safetensors with an index where there is more than one file, as transformers names them."""
    names = list(weights)
    parts = [names[i::shards] for i in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for file, part in zip(files, parts, strict=True):
        _write_safetensors(folder / file, {name: weights[name] for name in part}, dtype)
    if shards > 1:
        size = sum(len(_bytes(weight, dtype)) for weight in weights.values())
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))


def _write_safetensors(path: Path, weights: dict[str, NDArray[np.float32]], dtype: str) -> None:
    """Written out here, since the package's own writer is under test and safetensors.numpy has no bfloat16."""
    code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, weight in weights.items():
        start, data = len(data), data + _bytes(weight, dtype)
        header[name] = {"dtype": code, "shape": list(weight.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def save_tokenizer(folder: Path, vocab: int = VOCABULARY) -> None:
    (folder / "tokenizer.json").write_text(_trained(min(vocab, LARGEST_TOKENIZER)), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML, "eos_token": SPECIALS[2], "pad_token": SPECIALS[0],
        "clean_up_tokenization_spaces": False, "model_max_length": 2048,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


@cache
def _trained(vocab: int) -> str:
    """A byte-level BPE over a few sentences, as tokenizer.json: 256 bytes, the special tokens, and merges up to `vocab`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, special=True, normalized=False) for text in SPECIALS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    text = [
        "The river rose above the bridge last night and forty families were moved to the school on the hill.",
        "Volunteers bring water, blankets and food; the road to the north is closed until the rain stops.",
        '{"information_type":"caution","relevant":true,"score":7,"reasoning":"the text reports damage to a bridge"}',
        "user assistant system You answer with one JSON object. De rivier staat hoog. O rio subiu muito esta noite.",
    ]
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer.to_str()


def _bytes(array: NDArray[np.float32], dtype: str) -> bytes:
    """Little-endian bytes; bfloat16 is rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(dtype).tobytes()
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
