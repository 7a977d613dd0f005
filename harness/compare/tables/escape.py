"""Text from data made harmless for the place where it is shown."""

import re
import unicodedata

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}
_MARKDOWN = re.compile(r"([\\`*\[\]<>|#~&])|(?<![A-Za-z0-9])(_)|(_)(?![A-Za-z0-9])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DIRECTION = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def visible(text: str) -> str:
    """On one line and without what acts on a terminal or turns the text around: such characters as their numbers."""
    return "".join(f"<U+{ord(c):04X}>" if _acts(c) else c for c in " ".join(text.split()))


def _acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTION


def csv_cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def markdown(text: str) -> str:
    """For a cell of a Markdown table."""
    return _MARKDOWN.sub(lambda match: f"\\{match.group(0)}", visible(text))


def latex(text: str) -> str:
    """For pdflatex: specials escaped, accents kept; what it cannot set (Arabic, Thai) becomes an ASCII label."""
    found = []
    for character in visible(text):
        if character in _LATEX:
            found.append(_LATEX[character])
        elif character.isascii() or _has_accent_only(character):
            found.append(character)
        else:
            found.append(f"U+{ord(character):04X} ")
    return "".join(found).strip()


def _has_accent_only(character: str) -> bool:
    """Whether T1 fonts hold it: letters of Latin-1 and Latin Extended-A."""
    return "À" <= character <= "ſ" and character not in "ĸŀĿĦħŦŧ×÷"
