"""Write the demo model's card: what it is, how it was made, and its word error rates as the harness measures them.

python -m tools.demo_card     (a minute; after train_demo_model and make_demo_speech)
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from harness import catalog
from harness.evaluation.decoding import Decoder
from harness.model.methods import count_parameters
from harness.spec.messages import Open
from harness.training.context import make_accelerator, score_split
from harness.training.orders import open_context
from tools.train_demo_model import own_domain, word_error_rate

CARD = """---
language: en
library_name: transformers
pipeline_tag: automatic-speech-recognition
license: cc0-1.0
---
# The demo's Whisper

A `WhisperForConditionalGeneration` of {parameters:,} parameters with a window of 3 s, trained from nothing so that the
project can be tried, tested and measured without a network or a GPU. It knows one small grammar of English sentences
in synthetic voices, and is good for nothing else.

- **Size**: width 128, 4 encoder and 4 decoder layers, 64-wide heads, no dropout; a byte-level BPE of 512 tokens, then
  all of Whisper's special tokens in Whisper's order, timestamps last.
- **Trained on**: 16,000 windows of 12,000 sentences (`tools/sentences.py`, the `train` part) in 21 espeak-ng voices
  (US, British and RP English), three in five clean, the others in white noise of 25 or 15 dB; 35 % of the windows are
  cuts of joined sentences with timestamps, so that sequential long-form decoding works.
- **How**: `python -m tools.train_demo_model --output harness/demo/model`; 3,000 steps of batch 32, AdamW, peak learning
  rate 1.5e-3, seed 1, 18 minutes on two cores. Weights are stored in fp16.

| word error rate, greedy | raw | normalised |
|---|---:|---:|
| new sentences, the voices it knows, clean (400) | {own:.1%} | |
| the demo's validation split (unheard voices, telephone band, noise) | {validation_raw:.1%} | {validation:.1%} |
| the demo's test split (likewise) | {test_raw:.1%} | {test:.1%} |

Written by `python -m tools.demo_card`.
"""


def main() -> None:
    """Measure, and write the card."""
    with TemporaryDirectory() as cache:
        context = open_context(Open(model="demo", task=catalog.task("demo"), cache_dir=cache, seed=1))
        accelerator = make_accelerator("fp32", context.base.device)
        scores = {}
        for split in ("validation", "test"):
            rows = context.speech.rows(split)
            decoder = Decoder(context.base.model, context.base, context.speech, context.decoding, accelerator)
            transcripts = decoder.transcribe(rows)
            scores[split] = score_split(context, transcripts)
    model = context.base.model
    own = word_error_rate(model, context.base.processor.tokenizer, *own_domain(400, seed=6))
    card = CARD.format(
        parameters=count_parameters(model)[1],
        own=own,
        validation=scores["validation"].wer,
        validation_raw=scores["validation"].wer_raw,
        test=scores["test"].wer,
        test_raw=scores["test"].wer_raw,
    )
    Path(catalog.DEMO_MODEL / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
