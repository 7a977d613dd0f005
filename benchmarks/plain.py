"""A trial as the tutorials write it, a process of its own: the plain arm of benchmarks/sweep.py.

    python -m benchmarks.plain JOB.json

Seq2SeqTrainer and PEFT, features by `datasets.map` (which keeps them on disk between processes), greedy decoding with
the language forced by `predict_with_generate`. Of the harness it borrows what both must have in common: the order of
the examples. JOB.json names model, clips, settings, and the file that the result goes to.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    set_seed,
)

from harness.data.audio import SAMPLE_RATE, decode
from harness.data.batches import example_order


@dataclass
class Collator:
    """Stack features, pad labels with -100, and drop the start token that the model puts there itself."""

    processor: WhisperProcessor
    start: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch."""
        features = [{"input_features": example["input_features"]} for example in examples]
        batch = self.processor.feature_extractor.pad(features, return_tensors="pt")
        padded = self.processor.tokenizer.pad(
            [{"input_ids": example["labels"]} for example in examples], return_tensors="pt"
        )
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        if (labels[:, 0] == self.start).all():
            labels = labels[:, 1:]
        return {"input_features": batch["input_features"], "labels": labels}


class Ordered(Seq2SeqTrainer):
    """The trainer, with the examples in the order that every arm has."""

    order: list[int]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        return self.order


def prepared(clips: list[dict[str, str]], processor: WhisperProcessor) -> Dataset:
    """Features and labels of some clips, kept by datasets for the next process."""
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer

    def prepare(example: dict[str, str]) -> dict[str, Any]:
        mel = extractor(decode(Path(example["path"])), sampling_rate=SAMPLE_RATE).input_features[0]
        return {"input_features": mel, "labels": tokenizer(f" {example['text']}").input_ids}

    return Dataset.from_list(clips).map(prepare, remove_columns=["path"])


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate once at the end, and return the loss and the texts."""
    disable_progress_bars()
    set_seed(job["seed"])
    processor = WhisperProcessor.from_pretrained(job["model"])
    processor.tokenizer.set_prefix_tokens(language=job["language"], task="transcribe", predict_timestamps=False)
    model = WhisperForConditionalGeneration.from_pretrained(job["model"], dtype=torch.float32)
    model.generation_config.language, model.generation_config.task = job["language"], "transcribe"
    model = get_peft_model(model, LoraConfig(**job["lora"]))
    # PEFT hides what generate() and the trainer look for.
    model.config.use_cache = False
    train, validation = prepared(job["train"], processor), prepared(job["validation"], processor)
    gpu = torch.cuda.is_available()
    arguments = Seq2SeqTrainingArguments(
        output_dir=job["folder"],
        per_device_train_batch_size=job["batch_size"],
        per_device_eval_batch_size=32,
        max_steps=job["steps"],
        learning_rate=job["learning_rate"],
        warmup_steps=job["warmup_steps"],
        bf16=gpu,
        use_cpu=not gpu,
        dataloader_num_workers=4 if gpu else 0,
        remove_unused_columns=False,
        label_names=["labels"],
        predict_with_generate=True,
        generation_max_length=job["max_new_tokens"],
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=job["seed"],
    )
    trainer = Ordered(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=Collator(processor, model.config.decoder_start_token_id),
        processing_class=processor,
    )
    order = example_order(range(len(train)), job["order_seed"])
    trainer.order = [next(order) for _ in range(job["steps"] * job["batch_size"])]
    trainer.train()
    found = trainer.predict(validation)
    model.save_pretrained(job["folder"])
    ids = np.where(found.predictions < 0, processor.tokenizer.pad_token_id, found.predictions)
    texts = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return {"loss": found.metrics["test_loss"], "texts": [text.strip() for text in texts]}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(given["output"]).write_text(json.dumps(main(given)), encoding="utf-8")
