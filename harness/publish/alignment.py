"""Cross-attention heads that follow the audio, from which other programs compute when each word is said."""

import base64
import gzip
from typing import Any

import numpy as np

from harness.model_size.parameters import OFFICIAL, dimensions_of

# `_ALIGNMENT_HEADS` of openai-whisper (whisper/__init__.py). large and large-v2 are left out: their heads differ, but
# not their dimensions.
OFFICIAL_HEADS = {
    "tiny.en": b"ABzY8J1N>@0{>%R00Bk>$p{7v037`oCl~+#00",
    "tiny": b"ABzY8bu8Lr0{>%RKn9Fp%m@SkK7Kt=7ytkO",
    "base.en": b"ABzY8;40c<0{>%RzzG;p*o+Vo09|#PsxSZm00",
    "base": b"ABzY8KQ!870{>%RzyTQH3`Q^yNP!>##QT-<FaQ7m",
    "small.en": b"ABzY8>?_)10{>%RpeA61k&I|OI3I$65C{;;pbCHh0B{qLQ;+}v00",
    "small": b"ABzY8DmU6=0{>%Rpa?J`kvJ6qF(V^F86#Xh7JUGMK}P<N0000",
    "medium.en": b"ABzY8usPae0{>%R7<zz_OvQ{)4kMa0BMw6u5rT}kRKX;$NfYBv00*Hl@qhsU00",
    "medium": b"ABzY8B0Jh+0{>%R7}kK1fFL7w6%<-Pf*t^=N)Qr&0RR9",
    "large-v3": b"ABzY8gWO1E0{>%R7(9S+Kn!D~%ngiGaR?*L!iJG9p-nab0JQ=-{D1-g00",
    "large-v3-turbo": b"ABzY8j^C+e0{>%RARaKHP%t(lGR*)0g!tONPyhe`",
}


def alignment_heads(generation: Any, config: Any) -> list[list[int]] | None:
    """Return the heads as pairs of layer and head, or None if they are not known.

    They are those of the generation configuration or, if it names none, those of the official model of the same
    dimensions, from which the model was most likely fine-tuned. For None other programs use all heads of the upper
    layers.

    Args:
        generation: The model's GenerationConfig.
        config: The model's WhisperConfig.
    """
    if heads := getattr(generation, "alignment_heads", None):
        return [[int(layer), int(head)] for layer, head in heads]
    dimensions = dimensions_of(config)
    for name, dump in OFFICIAL_HEADS.items():
        if OFFICIAL[f"openai/whisper-{name}"] == dimensions:
            mask = np.frombuffer(gzip.decompress(base64.b85decode(dump)), dtype=bool)
            pairs: list[list[int]] = np.argwhere(mask.reshape(dimensions.decoder_layers, -1)).tolist()
            return pairs
    return None


def openai_heads(heads: list[list[int]], config: Any) -> bytes:
    """Return the heads as openai-whisper's `set_alignment_heads` reads them."""
    mask = np.zeros((config.decoder_layers, config.decoder_attention_heads), dtype=bool)
    for layer, head in heads:
        mask[layer, head] = True
    return base64.b85encode(gzip.compress(mask.tobytes(), mtime=0))
