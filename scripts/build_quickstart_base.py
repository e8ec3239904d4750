"""Pretrain the quickstart's base from nothing: 4.8 M parameters, Qwen2 layout, own tokenizer (run once; the result is in the repository).

    pip install -e '.[torch]'
    python scripts/build_quickstart_base.py SHARED/data recipes/quickstart/base --minutes 70

Inputs: public-domain prose (prose_en_pt), and the unlabelled texts of CrisisLex T26 rows which the recipe does not use and whose
disaster is neither in its validation nor in its test split. Both are in SOURCE.md beside the result; PROVENANCE.json counts them.
A share of the batches that rises from 15 to 60 % is tweets, so that the last thing the network learns is the language of the task.
"""

import argparse
import copy
import csv
import gzip
import json
import math
import random
import time
from pathlib import Path

import torch
from build_quickstart_data import HERE, SEED, SHARES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

from mlx_distill.data.split import SplitRow, split, text_key

VOCABULARY, CONTEXT, BATCH = 4096, 256, 16
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
"""Qwen2's pre-tokenization."""
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=70)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    prose, (tweets, events) = read_prose(args.shared / "prose_en_pt"), read_tweets(args.shared / "crisislex" / "t26_sample.csv")
    tokenizer = build_tokenizer(prose, tweets)
    prose_ids = torch.tensor([i for text in prose for i in [*tokenizer.encode(text).ids, 0]])
    tweet_ids = [torch.tensor(tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n").ids) for text in tweets]
    print(f"{len(prose_ids):,} tokens of prose, {sum(map(len, tweet_ids)):,} of {len(tweets):,} tweets", flush=True)
    config = Qwen2Config(
        hidden_size=320, num_hidden_layers=4, num_attention_heads=5, num_key_value_heads=1, intermediate_size=640,
        vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=True, rms_norm_eps=1e-6,
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    facts = {
        "parameters": model.num_parameters(), "prose_tokens": len(prose_ids), "tweets": len(tweets),
        "tweet_tokens": sum(map(len, tweet_ids)), "tweet_events": events, "torch": torch.__version__,
    }  # fmt: skip
    pretrain(model, prose_ids, tweet_ids, args.minutes * 60, lambda steps, loss: save(model, tokenizer, args.out, facts, steps, loss))


def read_prose(folder: Path) -> list[str]:
    return [
        line
        for path in sorted(folder.glob("*.txt.gz"))
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n\n" if "shakespeare" in path.name else "\n")
        if line.strip()
    ]


def read_tweets(path: Path) -> tuple[list[str], list[str]]:
    """Texts that the recipe has not, of disasters that it does not judge by; and the names of those disasters."""
    with (HERE / "crisis_t26.csv").open(newline="", encoding="utf-8") as file:
        recipe = list(csv.DictReader(file))
    chosen = split([SplitRow(row["id"], row["text"], row["event"]) for row in recipe], SHARES, SEED)
    judged = {row["event"] for row in recipe if row["id"] in {*chosen["valid"], *chosen["test"]}}
    seen = {text_key(row["text"]) for row in recipe}
    texts, events = [], set()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["event"] not in judged and text_key(row["text"]) not in seen:
                seen.add(text_key(row["text"]))
                texts.append(row["text"])
                events.add(row["event"])
    return texts, sorted(events)


def build_tokenizer(prose: list[str], tweets: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tweets * 4 + prose[::20], trainer)
    return tokenizer


def pretrain(model, prose, tweets, seconds, save) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1, betas=(0.9, 0.95), weight_decay=0.1)
    draw = random.Random(0)
    started, saved, step, mean = time.monotonic(), time.monotonic(), 0, None
    while (share := (time.monotonic() - started) / seconds) < 1:
        rows = [tweet_row(tweets, draw) if draw.random() < 0.15 + 0.45 * share else prose_row(prose, draw) for _ in range(BATCH)]
        batch = torch.stack(rows)
        rate = 2e-3 * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if mean is None else 0.99 * mean + 0.01 * loss.item()
        step += 1
        if step % 100 == 0:
            print(
                f"step {step}  {step * BATCH * CONTEXT / 1e6:.1f} M tokens  loss {mean:.3f}  {time.monotonic() - started:.0f} s", flush=True
            )
        if time.monotonic() - saved > 600:
            save(step, mean)
            saved = time.monotonic()
    save(step, mean)


def prose_row(prose: torch.Tensor, draw: random.Random) -> torch.Tensor:
    start = draw.randrange(len(prose) - CONTEXT)
    return prose[start : start + CONTEXT]


def tweet_row(tweets: list[torch.Tensor], draw: random.Random) -> torch.Tensor:
    row, size = [], 0
    while size < CONTEXT:
        row.append(draw.choice(tweets))
        size += len(row[-1])
    return torch.cat(row)[:CONTEXT]


def save(model: Qwen2ForCausalLM, tokenizer: Tokenizer, out: Path, facts: dict[str, object], steps: int, loss: float) -> None:
    """Half precision: the file halves, and the loss changes in the fourth digit."""
    copy.deepcopy(model).half().save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None, "model_max_length": 2048, "clean_up_tokenization_spaces": False, "chat_template": CHATML,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    facts = {**facts, "steps": steps, "tokens": steps * BATCH * CONTEXT, "loss": round(loss, 3)}
    (out / "PROVENANCE.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"saved at step {steps}: loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
