"""Normalisers by language: what must stay, and what the legacy one breaks."""

import pytest

from harness.errors import UserError
from harness.evaluation.normalizers import default_name, normalizer

BASIC = [
    ("hi", "हमने उसका जन्मदिन मनाया।", "हमने उसका जन्मदिन मनाया"),
    ("ar", "بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ", "بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ"),
    ("sv", "Även Åsa, på ÖN!", "även åsa på ön"),
    ("th", "สวัสดีครับ ผมชื่อสมชาย", "สวัสดีครับ ผมชื่อสมชาย"),
    ("tr", "İstanbul'da IŞIK, ılık", "istanbul da ışık ılık"),
    ("de", "Straße: ÄRGER (laut)", "straße ärger"),
]


@pytest.mark.parametrize("language, text, expected", BASIC)
def test_basic_keeps_marks_and_letters(language, text, expected):
    normalize, shown = normalizer(default_name(language), language)
    assert normalize(text) == expected
    assert "marks kept" in shown


# What openai/whisper's own tests of its English normaliser state, as facts about single phrases.
ENGLISH = {
    "Let's": "let us",
    "he's like": "he is like",
    "she's been like": "she has been like",
    "10km": "10 km",
    "RC232": "rc 232",
    "Mr. Park visited Assoc. Prof. Kim Jr.": "mister park visited associate professor kim junior",
    "two": "2",
    "thirty one": "31",
    "five twenty four": "524",
    "nineteen ninety nine": "1999",
    "twenty nineteen": "2019",
    "two point five million": "2500000",
    "four point two billions": "4200000000s",
    "200 thousand": "200000",
    "200 thousand dollars": "$200000",
    "$20 million": "$20000000",
    "€52.4 million": "€52400000",
    "£77 thousands": "£77000s",
    "two double o eight": "2008",
    "mobilisation": "mobilization",
    "cancelation": "cancellation",
}


@pytest.mark.parametrize("text, expected", ENGLISH.items())
def test_english_is_openais(text, expected):
    assert normalizer("english", "en")[0](text) == expected


def test_english_has_the_spelling_map():
    assert normalizer("english", "en")[0]("the colour, um, of [noise] honour") == "the color of honor"


# The damage is what `legacy` is there to show: whoever mends it makes figures incomparable that carry its name.
LEGACY = [
    ("hi", "हमने उसका जन्मदिन मनाया", 4, 7),
    ("ar", "بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ", 4, 12),
    ("th", "สวัสดีครับ ผมชื่อสมชาย", 2, 6),
]


@pytest.mark.parametrize("language, text, before, after", LEGACY)
def test_legacy_tears_words_apart_and_says_so(language, text, before, after):
    normalize, shown = normalizer("legacy", language)
    assert (len(text.split()), len(normalize(text).split())) == (before, after)
    assert "LEGACY" in shown


def test_unmarked_takes_tashkeel_off_and_keeps_letters():
    normalize, _ = normalizer("unmarked", "ar")
    assert normalize("بِسْمِ اللَّهِ") == "بسم الله"
    assert normalize("أحمد") == "أحمد"


def test_decomposed_turkish_capital():
    assert normalizer("basic", "tr")[0]("I\u0307stanbul") == "istanbul"


def test_unknown_name_is_told():
    with pytest.raises(UserError, match="did you mean 'english'"):
        normalizer("englisch", "en")
