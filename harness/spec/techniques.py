"""What makes trials fast and leaves their results as they are: each can be left out, to see what it is worth."""

from typing import Literal, get_args

Technique = Literal[
    "encoder_cache",  # what frozen layers of the encoder make of an utterance is computed once, for all trials
    "resident",  # a GPU keeps those states in its memory, where they fit into a quarter of it
    "sdpa",  # attention is torch's own function, not spelled out
    "fused",  # AdamW is torch's fused one
    "merging",  # an adapter is part of its base while a rung is decoded
    "sorting",  # utterances are decoded in the order of their length
    "compile",  # layers train as compiled code, and decoding keeps its keys and values in one place
]
# Compiling is asked for: it costs each trainer a minute or more.
STANDARD: tuple[Technique, ...] = tuple(name for name in get_args(Technique) if name != "compile")
