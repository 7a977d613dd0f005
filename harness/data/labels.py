"""Make the label tokens of a transcript: prompt, text as Whisper writes it, and end token."""

import functools
import json
import re
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperTokenizer

from harness.errors import UserError, nearest

# Whisper writes no space before texts of these languages: the untouched whisper-base has the lower loss without it.
UNSPACED = frozenset({"zh", "yue", "ja", "th"})
CONTROL_TOKEN = re.compile(r"<\|[^|<>]*\|>")  # such as <|endoftext|>, <|fr|> or <|0.00|>


def label_ids(
    tokenizer: WhisperTokenizer,
    generation: GenerationConfig,
    text: str,
    language: str,
    task: str,
    leading_space: bool = True,
) -> list[int]:
    """Return the ids of the prompt, the text and <|endoftext|>.

    Control tokens within the text, such as <|fr|>, are encoded as the characters that they are.

    The text starts as generation can write it: with a space where Whisper writes one, unless the tokenizer makes that
    space a token of its own, which generation suppresses at the beginning. Characters whose token is suppressed there,
    such as an opening quotation mark, are dropped from the beginning.

    Args:
        tokenizer: The model's tokenizer.
        generation: The model's generation configuration.
        text: The transcript.
        language: Whisper's code.
        task: "transcribe" or "translate".
        leading_space: False: never start with a space, as the tutorials do.

    Raises:
        UserError: The model has no token for the language or task.
    """
    spaced = leading_space and language not in UNSPACED
    ids = _text_ids(tokenizer, text.strip(), spaced, suppressed_first(generation))
    return [*prompt_ids(generation, language, task), *ids, int(tokenizer.eos_token_id)]


def suppressed_first(generation: GenerationConfig) -> frozenset[int]:
    """Return the tokens that generation never writes first."""
    return frozenset([*(generation.suppress_tokens or ()), *(generation.begin_suppress_tokens or ())])


def _text_ids(tokenizer: WhisperTokenizer, text: str, spaced: bool, suppressed: Collection[int]) -> list[int]:
    for start in range(len(text)):
        rest = text[start:].lstrip()
        for candidate in (f" {rest}", rest) if spaced else (rest,):
            ids = _encode(tokenizer, candidate)
            if ids and ids[0] not in suppressed:
                return ids
    return _encode(tokenizer, text)


def _encode(tokenizer: WhisperTokenizer, text: str) -> list[int]:
    if CONTROL_TOKEN.search(text):
        plain: list[int] = _without_control_tokens(tokenizer.backend_tokenizer).encode(text).ids
        return plain
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


@functools.lru_cache(maxsize=2)  # making one takes a tenth of a second
def _without_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy of a tokenizer that knows no control tokens and adds none around a text."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not CONTROL_TOKEN.search(token["content"])]
    return Tokenizer.from_str(json.dumps({**state, "post_processor": None}))


def prompt_ids(generation: GenerationConfig, language: str, task: str) -> list[int]:
    """Return <|startoftranscript|><|language|><|task|><|notimestamps|>; English-only models have no language and task.

    Raises:
        UserError: The model has no token for the language or task.
    """
    start, end = int(generation.decoder_start_token_id), int(_special(generation, "no_timestamps_token_id"))
    if not is_multilingual(generation):
        if language != "en" or task != "transcribe":
            raise UserError(f"the model transcribes English only, and cannot {task} {language!r}")
        return [start, end]
    languages, tasks = model_languages(generation), _special(generation, "task_to_id")
    if language not in languages:
        raise UserError(f"the model has no token for language {language!r}; {nearest(language, languages)}")
    return [start, languages[language], int(tasks[task]), end]


def is_multilingual(generation: GenerationConfig) -> bool:
    """Return whether the model has language and task tokens."""
    return bool(getattr(generation, "is_multilingual", True))


def model_languages(generation: GenerationConfig) -> dict[str, int]:
    """Return the model's own languages (Whisper's codes) and their tokens; an English-only model has "en" without one.

    Raises:
        UserError: The generation configuration does not list them.
    """
    if not is_multilingual(generation):
        return {"en": -1}
    return {name.strip("<|>"): int(token) for name, token in _special(generation, "lang_to_id").items()}


def _special(generation: GenerationConfig, name: str) -> Any:
    value = getattr(generation, name, None)
    if value is None:
        raise UserError(
            f"the model's generation_config.json has no {name}; copy that file from the Whisper model that yours was "
            "made from"
        )
    return value


def repair_merges(tokenizer: WhisperTokenizer) -> None:
    """Add the merge of " " and "t" to a tokenizer that lacks it, in place.

    Tokenizers of the hub from before February 2024 (transformers#29368), and models fine-tuned with them, lack this
    first merge. They split " the" into " " and "the", which Whisper itself never writes.
    """
    vocabulary = tokenizer.get_vocab()
    if tokenizer.tokenize(" t") != ["Ġ", "t"] or "Ġt" not in vocabulary:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = state["model"]["merges"]
    merges.insert(0, ["Ġ", "t"] if isinstance(merges[0], list) else "Ġ t")
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
