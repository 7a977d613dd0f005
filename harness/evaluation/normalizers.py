"""Text normalisers for scoring; transcripts are always stored raw."""

import functools
import unicodedata
from collections.abc import Callable
from importlib.metadata import version

from harness.errors import UserError, nearest

Normalizer = Callable[[str], str]
TATWEEL = "\N{ARABIC TATWEEL}"


def default_name(language: str) -> str:
    """English for English, else basic: Whisper's own rules with Unicode marks kept."""
    return "english" if language == "en" else "basic"


def _lower(text: str, language: str) -> str:
    """Lower-case as the language does: Turkish and Azerbaijani I and İ are ı and i."""
    if language in ("tr", "az"):
        text = unicodedata.normalize("NFC", text).replace("İ", "i").replace("I", "ı")
    return text.lower()


def _without_marks(text: str) -> str:
    """Without tashkeel and tatweel, letters as they are: marks that form a letter of its own with it (أ, é) stay."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(c for c in composed if unicodedata.category(c) != "Mn" and c != TATWEEL)


@functools.cache
def normalizer(name: str, language: str) -> tuple[Normalizer, str]:
    """A normaliser and the name with version under which tables show it.

    `english` is transformers' EnglishTextNormalizer with OpenAI's spelling map; `basic` is whisper-normalizer's
    BasicTextNormalizer with marks kept; `unmarked` is the same after vowel marks (tashkeel) were taken off; `legacy`
    is transformers' BasicTextNormalizer, which replaces each mark by a space and so tears Hindi and vocalised Arabic
    words apart: for comparison with published figures only; `none` leaves the text as it is.
    """
    found = _NORMALIZERS.get(name)
    if found is None:
        raise UserError(f"unknown normalizer {name!r}; {nearest(name, _NORMALIZERS)}")
    return found(language)


def _english(_: str) -> tuple[Normalizer, str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    from whisper_normalizer.english import EnglishSpellingNormalizer

    english = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping)
    return lambda text: english(text).strip(), f"english (transformers {version('transformers')})"


def _basic(language: str) -> tuple[Normalizer, str]:
    from whisper_normalizer.basic import BasicTextNormalizer

    basic = BasicTextNormalizer(preserve_marks=True)
    shown = f"basic, marks kept (whisper-normalizer {version('whisper-normalizer')})"
    return lambda text: basic(_lower(text, language)).strip(), shown


def _unmarked(language: str) -> tuple[Normalizer, str]:
    basic, shown = _basic(language)
    return lambda text: basic(_without_marks(text)), shown.replace("marks kept", "marks taken off")


def _legacy(language: str) -> tuple[Normalizer, str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    legacy = BasicTextNormalizer(remove_diacritics=False)
    shown = f"LEGACY, each mark a space (transformers {version('transformers')})"
    return lambda text: legacy(_lower(text, language)).strip(), shown


def _none(_: str) -> tuple[Normalizer, str]:
    return lambda text: text, "none"


_NORMALIZERS: dict[str, Callable[[str], tuple[Normalizer, str]]] = {
    "english": _english,
    "basic": _basic,
    "unmarked": _unmarked,
    "legacy": _legacy,
    "none": _none,
}
