"""Escape text from data for terminals, spreadsheets, Markdown and LaTeX."""

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
    """Return text on one line, with control and direction characters replaced by their code points."""
    return "".join(f"<U+{ord(c):04X}>" if _acts(c) else c for c in " ".join(text.split()))


def _acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTION


def csv_cell(value: object) -> object:
    """Return text with an apostrophe in front if a spreadsheet would run it as a formula; numbers are unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def markdown(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return _MARKDOWN.sub(lambda match: f"\\{match.group(0)}", visible(text))


def latex(text: str) -> str:
    """Escape text for pdflatex; text that it cannot set (Arabic, Thai) becomes an ASCII label."""
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
    """Whether T1 fonts have the letters: Latin-1 and Latin Extended-A."""
    return "À" <= character <= "ſ" and character not in "ĸŀĿĦħŦŧ×÷"
