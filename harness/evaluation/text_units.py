"""Split texts into the words and characters that all error rates count."""

UNSPACED = ("zh", "ja", "th", "yue", "lo", "my", "km", "bo")  # languages written without spaces


def words(text: str) -> list[str]:
    """Split at any white space, also at ideographic and no-break spaces."""
    return text.split()


def characters(text: str, language: str) -> str:
    """Return the characters to count: words joined by single spaces, or by none in a language written without spaces.

    Args:
        text: The text, normalized or raw.
        language: Whisper's language code.
    """
    return ("" if language in UNSPACED else " ").join(words(text))
