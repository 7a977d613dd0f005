"""Text normalizers for scoring; transcripts are always stored raw."""

import functools
import unicodedata
from collections.abc import Callable
from importlib.metadata import version

from harness.errors import UserError, nearest

Normalizer = Callable[[str], str]
TATWEEL = "\N{ARABIC TATWEEL}"


def default_name(language: str) -> str:
    """Return the default normalizer of a language: `english` for English, `basic` for all others."""
    return "english" if language == "en" else "basic"


def _lower(text: str, language: str) -> str:
    """Lower-case text by the rules of the language: Turkish and Azerbaijani I and İ become ı and i."""
    if language in ("tr", "az"):
        text = unicodedata.normalize("NFC", text).replace("İ", "i").replace("I", "ı")
    return text.lower()


def _remove_marks(text: str) -> str:
    """Remove tashkeel and tatweel. Marks that compose with a letter into another letter (أ, é) stay."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(c for c in composed if unicodedata.category(c) != "Mn" and c != TATWEEL)


@functools.cache
def normalizer(name: str, language: str) -> tuple[Normalizer, str]:
    """Return a normalizer, and its label with version for tables.

    - `english`: transformers' EnglishTextNormalizer with OpenAI's spelling map.
    - `basic`: whisper-normalizer's BasicTextNormalizer, with Unicode marks kept.
    - `unmarked`: `basic` after vowel marks (tashkeel) and tatweel are removed.
    - `legacy`: transformers' BasicTextNormalizer. It replaces each mark by a space, which splits Hindi and vocalized
      Arabic words; use it only to compare with published figures.
    - `none`: leaves the text unchanged.

    Raises:
        UserError: If there is no normalizer of that name.
    """
    make = _NORMALIZERS.get(name)
    if make is None:
        raise UserError(f"unknown normalizer {name!r}; {nearest(name, _NORMALIZERS)}")
    return make(language)


def _english(_: str) -> tuple[Normalizer, str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    from whisper_normalizer.english import EnglishSpellingNormalizer

    english = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping)
    return lambda text: english(text).strip(), f"english (transformers {version('transformers')})"


def _basic(language: str) -> tuple[Normalizer, str]:
    from whisper_normalizer.basic import BasicTextNormalizer

    basic = BasicTextNormalizer(preserve_marks=True)
    label = f"basic, marks kept (whisper-normalizer {version('whisper-normalizer')})"
    return lambda text: basic(_lower(text, language)).strip(), label


def _unmarked(language: str) -> tuple[Normalizer, str]:
    basic, label = _basic(language)
    return lambda text: basic(_remove_marks(text)), label.replace("marks kept", "marks taken off")


def _legacy(language: str) -> tuple[Normalizer, str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    legacy = BasicTextNormalizer(remove_diacritics=False)
    label = f"LEGACY, each mark a space (transformers {version('transformers')})"
    return lambda text: legacy(_lower(text, language)).strip(), label


def _none(_: str) -> tuple[Normalizer, str]:
    return lambda text: text, "none"


_NORMALIZERS: dict[str, Callable[[str], tuple[Normalizer, str]]] = {
    "english": _english,
    "basic": _basic,
    "unmarked": _unmarked,
    "legacy": _legacy,
    "none": _none,
}
