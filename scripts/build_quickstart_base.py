"""Pretrain the quickstart's base from nothing: 4.8 M parameters, Qwen2 layout, own tokenizer (run once; the result is in the repository).

    pip install -e '.[torch]'
    python scripts/build_quickstart_base.py SHARED/data language --minutes 85
    python scripts/build_quickstart_base.py SHARED/data recipes/quickstart/base --minutes 45 --go-on language

Inputs: public-domain prose (prose_en_pt), and the unlabelled texts of CrisisLex T26 rows which the recipe does not use and whose
disaster is neither in its validation nor in its test split. Both are in SOURCE.md beside the result; PROVENANCE.json counts them.

First it learns language: to go on with prose and, in a share that rises with time, with tweets. Then it learns to read: a user's
message has gaps, the assistant says what is missing, and only that is learned. Nobody labels anything, and the tweets, which are few,
are not learned by heart. (After the first part alone, tweets that it had read cost 2.6 nats a token, others 4.2.)
"""

import argparse
import copy
import csv
import gzip
import json
import math
import random
import time
from collections.abc import Callable
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
CONFIG = Qwen2Config(
    hidden_size=320, num_hidden_layers=4, num_attention_heads=5, num_key_value_heads=1, intermediate_size=640,
    vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=True, rms_norm_eps=1e-6,
    bos_token_id=None, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--go-on", type=Path, metavar="FOLDER", help="a base that knows the language: teach it to read")
    args = parser.parse_args()
    torch.manual_seed(0)
    prose, (tweets, events) = read_prose(args.shared / "prose_en_pt"), read_tweets(args.shared / "crisislex" / "t26_sample.csv")
    facts: dict[str, object] = {"tweets": len(tweets), "tweet_events": events, "torch": torch.__version__}
    if args.go_on is None:
        tokenizer, model, before = build_tokenizer(prose, tweets), Qwen2ForCausalLM(CONFIG), []
    else:
        tokenizer = Tokenizer.from_file(str(args.go_on / "tokenizer.json"))
        model = Qwen2ForCausalLM.from_pretrained(args.go_on, dtype=torch.float32)
        before = json.loads((args.go_on / "PROVENANCE.json").read_text(encoding="utf-8"))["parts"]
    rows = Rows(prose, tweets, tokenizer)
    facts |= {"parameters": model.num_parameters(), "prose_tokens": len(rows.prose), "tweet_tokens": sum(map(len, rows.tweets))}
    print(facts, flush=True)

    def keep(steps: int, loss: float) -> None:
        part = {"part": "reading" if args.go_on else "language", "steps": steps, "tokens": steps * BATCH * CONTEXT, "loss": round(loss, 3)}
        save(model, tokenizer, args.out, {**facts, "parts": [*before, part]})

    pretrain(model, rows.reading if args.go_on else rows.language, 1e-3 if args.go_on else 2e-3, args.minutes * 60, keep)


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


class Rows:
    """Draws rows of CONTEXT tokens, and what of them is learned (-100: not)."""

    def __init__(self, prose: list[str], tweets: list[str], tokenizer: Tokenizer):
        self._tokenizer, self._draw = tokenizer, random.Random(0)
        self._sentences, self._texts = [line for line in prose if len(line.split()) > 8], tweets
        self.prose = torch.tensor([i for text in prose for i in [*tokenizer.encode(text).ids, 0]])
        self.tweets = [torch.tensor(tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n").ids) for text in tweets]

    def language(self, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """`share` of the time is over, 0 to 1."""
        row = self._tweets() if self._draw.random() < 0.15 + 0.45 * share else self._prose()
        return row, row

    def reading(self, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        kind = self._draw.random()
        if kind < 0.4:
            row = self._prose() if kind < 0.32 else self._tweets()
            return row, row
        return self._gaps(self._texts if kind < 0.8 else self._sentences)

    def _prose(self) -> torch.Tensor:
        start = self._draw.randrange(len(self.prose) - CONTEXT)
        return self.prose[start : start + CONTEXT]

    def _tweets(self) -> torch.Tensor:
        return self._filled(lambda: self._draw.choice(self.tweets))

    def _filled(self, piece: Callable[[], torch.Tensor]) -> torch.Tensor:
        row, size = [], 0
        while size < CONTEXT:
            row.append(piece())
            size += row[-1].shape[-1]
        return torch.cat(row, dim=-1)[..., :CONTEXT]

    def _gaps(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        both = self._filled(lambda: self._exercise(self._draw.choice(texts)))
        return both[0], both[1]

    def _exercise(self, text: str) -> torch.Tensor:
        """A text with one to three gaps of one to three words, and what is missing: (2, n), ids and labels."""
        words = text.split()[:60]
        missing = []
        for _ in range(self._draw.randint(1, 3)):
            at, size = self._draw.randrange(max(1, len(words))), self._draw.randint(1, 3)
            if "__" not in words[at : at + size]:
                missing.append((at, " ".join(words[at : at + size])))
                words[at : at + size] = ["__"]
                missing = [(a if a <= at else a - size + 1, gap) for a, gap in missing]
        said = " / ".join(gap for _, gap in sorted(missing))
        system = "<|im_start|>system\nSay what is missing.<|im_end|>\n" if self._draw.random() < 0.5 else ""
        asked = self._tokenizer.encode(f"{system}<|im_start|>user\n{' '.join(words)}<|im_end|>\n<|im_start|>assistant\n").ids
        answer = self._tokenizer.encode(f"{said}<|im_end|>\n").ids
        return torch.tensor([asked + answer, [-100] * len(asked) + answer])


def pretrain(
    model: Qwen2ForCausalLM,
    draw: Callable[[float], tuple[torch.Tensor, torch.Tensor]],
    peak: float,
    seconds: float,
    keep: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1, betas=(0.9, 0.95), weight_decay=0.1)
    started, kept, step, mean = time.monotonic(), time.monotonic(), 0, math.nan
    while (share := (time.monotonic() - started) / seconds) < 1:
        rows, labels = zip(*(draw(share) for _ in range(BATCH)), strict=True)
        rate = peak * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(input_ids=torch.stack(rows), labels=torch.stack(labels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if math.isnan(mean) else 0.99 * mean + 0.01 * loss.item()
        step += 1
        if step % 100 == 0:
            print(f"step {step}  loss {mean:.3f}  {time.monotonic() - started:.0f} s", flush=True)
        if time.monotonic() - kept > 300:
            keep(step, mean)
            kept = time.monotonic()
    keep(step, mean)


def save(model: Qwen2ForCausalLM, tokenizer: Tokenizer, out: Path, facts: dict[str, object]) -> None:
    """Half precision: the file halves, and the loss changes in the fourth digit."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None, "model_max_length": 2048, "clean_up_tokenization_spaces": False, "chat_template": CHATML,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (out / "PROVENANCE.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"saved: {facts['parts']}", flush=True)


if __name__ == "__main__":
    main()
