"""Language codes -> those of Whisper's tokens, by a named proxy where Whisper has none."""

import functools

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from harness.errors import UserError, nearest

# Codes of corpora (FLEURS, Common Voice, ISO 639-3) whose first part is not Whisper's own.
ALIASES = {
    "cmn": "zh", "nb": "no", "nob": "no", "nno": "nn", "fil": "tl", "jv": "jw", "iw": "he", "in": "id", "ory": "or",
    "swe": "sv", "eng": "en", "deu": "de", "ger": "de", "nld": "nl", "dut": "nl", "fra": "fr", "fre": "fr",
    "spa": "es", "ita": "it", "por": "pt", "rus": "ru", "ara": "ar", "zho": "zh", "chi": "zh", "jpn": "ja",
    "kor": "ko", "dan": "da", "nor": "no", "fin": "fi", "isl": "is", "fao": "fo",
}  # fmt: skip


def code(given: str) -> str:
    """A language's name or locale as a plain code: Swedish, sv-SE and sv_se become sv."""
    lowered = given.strip().lower()
    first = lowered.replace("_", "-").split("-")[0]
    return TO_LANGUAGE_CODE.get(lowered) or ALIASES.get(first, first)


@functools.lru_cache(maxsize=4096)
def token_language(given: str, proxy: str | None) -> tuple[str, str | None]:
    """The language whose token a label bears, and the spoken one where the two differ.

    Raises:
        UserError: if Whisper does not know the language and no proxy that it knows is named.
    """
    spoken = code(given)
    if spoken in LANGUAGES:
        return spoken, None
    if not proxy:
        raise UserError(
            f"{given!r} is not among Whisper's languages; {nearest(spoken, LANGUAGES)}\n       for a language that "
            "Whisper does not know, name a related one in the task: proxy_language: CODE"
        )
    if code(proxy) not in LANGUAGES:
        raise UserError(f"proxy_language {proxy!r} is not among Whisper's languages; {nearest(proxy, LANGUAGES)}")
    return code(proxy), spoken
