"""transformers' `Trainer` over PEFT's LoRA, and TRL's `SFTTrainer` and Unsloth where they are installed; each in its own loop.

peft default   rows in the order of the file, padded to the longest of their micro-batch with the padding masked, as
               `DataCollatorForSeq2Seq` pads; prompts masked with -100; no gradient checkpointing
peft best      rows sorted beforehand, so that micro-batches hold rows of like length; padding on the right without a mask: a causal model
               never looks at it, and the attention kernel may skip what lies above the diagonal
trl sorted     SFTTrainer on the same sorted micro-batches: its loss computes logits of answer tokens alone
trl packed     SFTTrainer as its documentation packs: a micro-batch is one sequence without padding, told apart by position ids
unsloth        peft best, with Unsloth's model and kernels; needs a CUDA GPU

All get the adapter's shape and first values, no dropout, AdamW, the effective batch and the attention implementation (`sdpa`, or
flash-attention where installed) that there is, float32 where ours computes in it, and the allocator's settings that ours gets. Rows are
tokenized beforehand. `Trainer` divides by the learned tokens of the effective batch: its loss is ours. Its clock runs from the first
forward of an effective batch to the end of the optimizer's step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench import peft_plain as plain
from bench.device import Device, device_of
from bench.job import LEARNING_RATE, WEIGHT_DECAY, Job, Measured
from bench.shapes import Work, rows_of, unsorted
from mlx_distill.backends.allocation import keep_freed_pages
from mlx_distill.backends.choose import choose

MOMENTS = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}


@dataclass(frozen=True, slots=True)
class Settings:
    sorted: bool
    masked: bool = False
    """Padding is masked, as the library's own collator does."""
    trl: bool = False
    packed: bool = False
    unsloth: bool = False


RIVALS: Mapping[str, Settings] = {
    "peft best": Settings(sorted=True),
    "peft default": Settings(sorted=False, masked=True),
    "trl sorted": Settings(sorted=True, masked=True, trl=True),
    "trl packed": Settings(sorted=True, trl=True, packed=True),
    "unsloth": Settings(sorted=True, unsloth=True),
}


def train(job: Job, settings: Settings) -> Measured:
    keep_freed_pages()
    if settings.trl:
        from trl import SFTTrainer  # type: ignore[import-not-found]  # noqa: F401 - its code is none of the memory that is measured
    device, blas = device_of("torch"), choose("torch").machine().blas
    model = _unsloth(job) if settings.unsloth else plain.adapted(Path(job.base), Path(job.adapter))
    measured = learned(model, job.work(), settings, device, Path(job.out), job.vocabulary)
    measured.blas = blas
    plain.save(model, Path(job.out))
    return measured


def learned(model: Any, work: Work, settings: Settings, device: Device, out: Path, vocabulary: int) -> Measured:
    """The model, PEFT's with an adapter to train, is trained in place."""
    measured, rows = Measured(), list(_rows(work, settings))
    trainer = _trainer(model, work, settings, rows, out, vocabulary)
    trainer.add_callback(Clock(device, measured))
    trainer.train()
    _count(measured, work, settings, rows)
    measured.peak_memory, measured.resident = device.peak(), device.resident()
    return measured


def _rows(work: Work, settings: Settings) -> Iterator[dict[str, list[int]]]:
    """In the order in which they are trained, the warm-up's first."""
    for batches in ([work.warm_up], work.measured):
        for batch in batches if settings.sorted else unsorted(batches):
            for row in rows_of([batch]):
                yield plain.whole(work.prefix, row)


def _count(measured: Measured, work: Work, settings: Settings, rows: Sequence[Mapping[str, list[int]]]) -> None:
    lengths = [len(row["input_ids"]) for row in rows]
    micro = len(work.warm_up[0])
    for at in range(len(rows_of([work.warm_up])), len(lengths), micro):
        batch = lengths[at : at + micro]
        measured.computed += sum(batch) if settings.packed else micro * max(batch)
        measured.padded += 0 if settings.packed else micro * max(batch) - sum(batch)
    measured.learned = sum(len(row.answer) for row in rows_of(work.measured))


def _trainer(model: Any, work: Work, settings: Settings, rows: Sequence[Mapping[str, list[int]]], out: Path, vocabulary: int) -> Trainer:
    asked = _arguments(work, out)
    if not settings.trl:
        data: Any = [dict(row) for row in rows]  # what `Trainer` takes as it is, whether `datasets` is installed or not
        return Trainer(model, TrainingArguments(**asked), train_dataset=data, data_collator=Collator(masked=settings.masked))
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        **asked,
        gradient_checkpointing=False,
        padding_free=settings.packed,
        max_length=None,
        completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return SFTTrainer(
        model, config, train_dataset=Dataset.from_list([dict(row) for row in rows]), processing_class=plain.tokenizer_of(vocabulary)
    )


def _arguments(work: Work, out: Path) -> dict[str, Any]:
    """What every trainer is told."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": len(work.warm_up[0]),
        "gradient_accumulation_steps": len(work.warm_up),
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",  # the order is ours: sorted, or not
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": 0.0,
        "optim": "adamw_torch",
        **MOMENTS,
        "bf16": cuda,
        "use_cpu": not cuda,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        "use_liger_kernel": fused(),
    }


def fused() -> bool:
    """Whether Liger's kernels compute the loss without the logits."""
    return torch.cuda.is_available() and find_spec("liger_kernel") is not None


class Collator:
    """Right padding, as wide as the longest row."""

    def __init__(self, *, masked: bool):
        self._masked = masked

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def padded(key: str, value: int) -> Tensor:
            return torch.tensor([[*row[key], *[value] * (width - len(row[key]))] for row in rows])

        batch = {"input_ids": padded("input_ids", 0), "labels": padded("labels", plain.UNLEARNED)}
        if self._masked:
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["attention_mask"] = (torch.arange(width)[None] < lengths[:, None]).long()
        return batch


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times each effective batch; the first is the warm-up, and says the loss before anything was learned."""

    def __init__(self, device: Device, measured: Measured):
        self._device, self._measured, self._steps = device, measured, 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._device.synchronize()
        self._measured.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._device.synchronize()
        self._steps += 1
        if self._steps > 1:
            self._measured.stop()
        else:
            self._device.restart_peak()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        if self._steps == 1 and logs and "loss" in logs:
            self._measured.first_loss = float(logs["loss"])


def _unsloth(job: Job) -> Any:
    """Imported before transformers' model is built, since it replaces parts of it."""
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    from bench.model import LORA

    model, _ = FastLanguageModel.from_pretrained(job.base, load_in_4bit=False, max_seq_length=1 << 15)
    model = FastLanguageModel.get_peft_model(
        model, r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=0, target_modules=list(LORA.targets), use_gradient_checkpointing=False
    )
    plain.wear(model, Path(job.adapter))
    return model
