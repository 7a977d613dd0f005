"""Map languages of corpora to the languages of Whisper's tokens, and to those of one model."""

import functools
from collections.abc import Collection, Sequence

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from harness.errors import UserError, nearest
from harness.spec.task import Task, Utterance

# Codes of corpora (FLEURS, Common Voice, ISO 639-3) whose first part is not Whisper's code.
ALIASES = {
    "cmn": "zh", "nb": "no", "nob": "no", "nno": "nn", "fil": "tl", "jv": "jw", "iw": "he", "in": "id", "ory": "or",
    "swe": "sv", "eng": "en", "deu": "de", "ger": "de", "nld": "nl", "dut": "nl", "fra": "fr", "fre": "fr",
    "spa": "es", "ita": "it", "por": "pt", "rus": "ru", "ara": "ar", "zho": "zh", "chi": "zh", "jpn": "ja",
    "kor": "ko", "dan": "da", "nor": "no", "fin": "fi", "isl": "is", "fao": "fo",
}  # fmt: skip


def language_code(given: str) -> str:
    """Return the code of a language's name or locale: "sv" for Swedish, sv-SE and sv_se."""
    lowered = given.strip().lower()
    first = lowered.replace("_", "-").split("-")[0]
    return TO_LANGUAGE_CODE.get(lowered) or ALIASES.get(first, first)


@functools.lru_cache(maxsize=4096)
def token_language(given: str, proxy: str | None) -> tuple[str, str | None]:
    """Return the language of the label's token.

    Args:
        given: Name or locale of the spoken language.
        proxy: The language whose token to use if Whisper does not know the spoken one.

    Returns:
        Code of the token's language, and code of the spoken language if it is another one, else None.

    Raises:
        UserError: Whisper knows neither the language nor the proxy.
    """
    spoken = language_code(given)
    if spoken in LANGUAGES:
        return spoken, None
    if not proxy:
        raise UserError(
            f"{given!r} is not among Whisper's languages; {nearest(spoken, LANGUAGES)}\n       for a language that "
            "Whisper does not know, name a related one in the task: proxy_language: CODE"
        )
    if language_code(proxy) not in LANGUAGES:
        raise UserError(f"proxy_language {proxy!r} is not among Whisper's languages; {nearest(proxy, LANGUAGES)}")
    return language_code(proxy), spoken


def with_own_languages(task: Task, utterances: Sequence[Utterance], languages: Collection[str]) -> list[Utterance]:
    """Use the proxy language for each utterance whose language Whisper knows, but not this model.

    Cantonese is such a language: only large-v3 and its successors have its token.

    Args:
        task: The task, which names the proxies.
        utterances: Its utterances.
        languages: The codes of the model's languages.

    Raises:
        UserError: The model lacks a language and its proxy.
    """
    sources = dict(zip(task.source_names(), task.sources, strict=True))
    replaced = []
    for utterance in utterances:
        if utterance.language not in languages:
            proxy = sources[utterance.dataset].proxy_language or task.proxy_language
            token = language_code(proxy) if proxy and not utterance.spoken else utterance.language
            if token not in languages:
                raise UserError(
                    f"task {task.name}: the model has no token for language {token!r}; {nearest(token, languages)}\n"
                    "       name a related language that the model has in the task: proxy_language: CODE (zh for yue)"
                )
            utterance = utterance.model_copy(update={"language": token, "spoken": utterance.language})
        replaced.append(utterance)
    return replaced
