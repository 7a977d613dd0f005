"""Train the small Whisper that the project ships, from nothing, on synthetic standard voices.

python -m tools.train_demo_model --output harness/demo/model     (18 minutes on 2 cores)
"""

import argparse
import itertools
import json
import random
import time
from pathlib import Path

import jiwer
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    AddedToken,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS

from tools.sentences import sentences
from tools.synthesis import Utterance, resample, speak

RATE = 16_000
WINDOW_S = 3
TEXT_TOKENS = 512
STANDARD_VOICES = [
    accent + variant
    for accent in ("en-us", "en-gb", "en-gb-x-rp")
    for variant in ("", "+m1", "+m3", "+m5", "+f1", "+f2", "+f4")
]
STANDARD_NOISE = (None, None, None, 25.0, 15.0)  # dB; None is clean


def build_tokenizer(texts: list[str]) -> WhisperTokenizer:
    """Whisper's tokenizer over a small byte-level BPE: text, special tokens in Whisper's order, timestamps last."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [" " + text for text in texts], trainers.BpeTrainer(vocab_size=TEXT_TOKENS, initial_alphabet=sorted(alphabet))
    )
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = WhisperTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        pad_token="<|endoftext|>",
    )
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *[f"<|{code}|>" for code in list(LANGUAGES)[:99]],
        *[f"<|{task}|>" for task in TASK_IDS],
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False, normalized=False) for i in range(1501)])
    if tokenizer.convert_tokens_to_ids(special) != list(range(TEXT_TOKENS, TEXT_TOKENS + len(special))):
        raise RuntimeError("the special tokens did not get Whisper's order")
    return tokenizer


def build_model(tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    """A Whisper of 2.2 M parameters in Whisper's proportions: 64-wide heads, as many decoder as encoder layers."""
    width, layers, token = 128, 4, tokenizer.convert_tokens_to_ids
    end = token("<|endoftext|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=WINDOW_S * 50,
        max_target_positions=64,
        dropout=0.0,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=token("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        max_length=64,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=config.decoder_start_token_id,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": token(f"<|{code}|>") for code in list(LANGUAGES)[:99]},
        task_to_id={task: token(f"<|{task}|>") for task in TASK_IDS},
        no_timestamps_token_id=token("<|notimestamps|>"),
        prev_sot_token_id=token("<|startofprev|>"),
        max_initial_timestamp_index=50,
        return_timestamps=False,
        suppress_tokens=[],
        begin_suppress_tokens=[token("<|endoftext|>")],
    )
    return model


def plain_window(clip: np.ndarray, text: str, tokenizer: WhisperTokenizer, rng: random.Random):
    """One sentence somewhere in a silent window, without timestamps."""
    window = np.zeros(WINDOW_S * RATE, np.float32)
    lead = int(rng.uniform(0, min(0.5, WINDOW_S - len(clip) / RATE)) * RATE)
    window[lead : lead + len(clip)] = clip
    return window, tokenizer(" " + text, add_special_tokens=False).input_ids


def stamped_window(clips: list[np.ndarray], texts: list[str], tokenizer: WhisperTokenizer, rng: random.Random):
    """A cut from joined sentences, labelled with timestamps as Whisper's training data is.

    Of a sentence cut off by the window's end only the start is labelled, so that sequential long-form decoding
    knows where to go on.
    """
    window = np.zeros(WINDOW_S * RATE, np.float32)
    first_stamp = tokenizer.convert_tokens_to_ids("<|0.00|>")
    labels, place = [], int(rng.uniform(0, 0.4) * RATE)
    for clip, text in zip(clips, texts, strict=True):
        if place >= len(window):
            break
        piece = clip[: len(window) - place]
        window[place : place + len(piece)] = piece
        labels.append(first_stamp + round(place / RATE / 0.02))
        if len(piece) < len(clip):
            break
        labels += tokenizer(" " + text, add_special_tokens=False).input_ids
        labels.append(first_stamp + round((place + len(clip)) / RATE / 0.02))
        place += len(clip) + int(rng.uniform(0.05, 0.6) * RATE)
    return window, labels


def build_corpus(count: int, tokenizer: WhisperTokenizer, texts: list[str], seed: int):
    """Features (count, 80, 300) in fp16 and label lists; 35 % of the windows carry timestamps."""
    rng = random.Random(seed)
    clips = []
    for text in texts:
        voice, noise = rng.choice(STANDARD_VOICES), rng.choice(STANDARD_NOISE)
        utterance = Utterance(text, voice, rng.randint(140, 205), rng.randint(25, 75), noise, rng.randrange(2**31))
        clips.append(resample(speak(utterance), RATE)[: WINDOW_S * RATE])
    start = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|en|>", "<|transcribe|>"])
    plain, end = [tokenizer.convert_tokens_to_ids("<|notimestamps|>")], [tokenizer.eos_token_id]
    windows, labels = [], []
    for index in range(count):
        if rng.random() < 0.35:
            chosen = [index % len(texts), *rng.sample(range(len(texts)), 2)]
            window, tokens = stamped_window([clips[i] for i in chosen], [texts[i] for i in chosen], tokenizer, rng)
            labels.append(start + tokens + end)
        else:
            window, tokens = plain_window(clips[index % len(texts)], texts[index % len(texts)], tokenizer, rng)
            labels.append(start + plain + tokens + end)
        windows.append(window)
    return log_mel(windows), labels


def log_mel(clips: list[np.ndarray]) -> torch.Tensor:
    """Features (clips, 80, 300) in fp16 by Whisper's own extractor, cut to the short window."""
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S)
    return torch.cat(
        [
            extractor(clips[start : start + 64], sampling_rate=RATE, return_tensors="pt").input_features.half()
            for start in range(0, len(clips), 64)
        ]
    )


def train(
    model, tokenizer: WhisperTokenizer, features: torch.Tensor, labels: list[list[int]], steps: int, seed: int
) -> None:
    """AdamW, batch 32, linear warm-up and decay; the loss is over every token after the start token."""
    rng, began, held_out = np.random.default_rng(seed), time.time(), own_domain(150)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 300, max(0.01, 1 - step / steps))
    )
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(steps * 32 // len(labels) + 1)])
    model.train()
    for step in range(steps):
        chosen = order[step * 32 : step * 32 + 32]
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(labels[i]) for i in chosen], batch_first=True, padding_value=-100
        )
        inputs = tokens[:, :-1].clamp(min=0)
        logits = model(input_features=features[torch.as_tensor(chosen)].float(), decoder_input_ids=inputs).logits
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.time() - began:.0f} s", flush=True)
        if step % 500 == 499:
            print(f"step {step} WER on new sentences: {word_error_rate(model, tokenizer, *held_out):.1%}", flush=True)


def own_domain(count: int, seed: int = 5) -> tuple[torch.Tensor, list[str]]:
    """Features and texts of clean new sentences by the standard voices."""
    rng, texts = random.Random(seed), list(itertools.islice(sentences("validation", seed), count))
    clips = [
        speak(Utterance(text, rng.choice(STANDARD_VOICES), rng.randint(140, 205), rng.randint(25, 75), None, 1))
        for text in texts
    ]
    return log_mel([resample(clip, RATE) for clip in clips]), texts


def word_error_rate(model, tokenizer: WhisperTokenizer, features: torch.Tensor, texts: list[str]) -> float:
    """Corpus WER of greedy decoding, a fraction."""
    model.eval()
    with torch.inference_mode():
        ids = model.generate(features.float(), language="en", task="transcribe", max_new_tokens=40)
    model.train()
    return jiwer.wer(texts, [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)])


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--windows", type=int, default=16_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    began = time.time()
    texts = list(itertools.islice(sentences("train", options.seed), 12_000))
    tokenizer = build_tokenizer(texts)
    features, labels = build_corpus(options.windows, tokenizer, texts, options.seed)
    model = build_model(tokenizer)
    print(
        f"{len(labels)} windows, {sum(p.numel() for p in model.parameters()):,} parameters, {time.time() - began:.0f} s"
    )
    train(model, tokenizer, features, labels, options.steps, options.seed)
    model.half().save_pretrained(options.output)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S)
    WhisperProcessor(extractor, tokenizer).save_pretrained(options.output)
    print(f"saved to {options.output} after {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
