"""Name the optional speed-ups, which do not change results; each can be switched off to measure its effect."""

from typing import Literal, get_args

Technique = Literal[
    "encoder_cache",  # the output of frozen encoder layers is computed once per utterance, for all trials
    "resident",  # a GPU keeps those states in its memory, if they fit into a quarter of it
    "sdpa",  # attention uses torch's scaled_dot_product_attention
    "fused",  # AdamW uses torch's fused implementation
    "merging",  # an adapter is merged into the base model while a rung is decoded
    "sorting",  # utterances are decoded in the order of their length
    "compile",  # layers are compiled for training, and decoding uses a static key-value cache
]
# Compilation is off by default, because it takes each trainer a minute or more.
STANDARD: tuple[Technique, ...] = tuple(name for name in get_args(Technique) if name != "compile")
