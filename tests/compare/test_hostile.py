"""Input that is odd or means harm: escaped where shown, or a clear error; never a silent number."""

import csv
import json

import pytest

from harness.compare.scoring.counts import cached_counts
from harness.compare.tables import escape
from harness.evaluation.normalizers import normalizer

REFERENCES = [f"word{n} is said here" for n in range(12)]
SPEAKERS = [f"s{n % 6}" for n in range(12)]


@pytest.fixture
def reference(write):
    return write("ref.jsonl", "reference", REFERENCES, speaker=SPEAKERS)


def failure(run, *arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    return err


def test_a_missing_utterance(run, write, reference):
    err = failure(run, "--reference", reference, "--add", f"A={write('a.jsonl', 'hypothesis', REFERENCES[:-1])}")
    assert "1 of 12 utterances are missing ('u11')" in err
    assert "empty hypothesis" in err


def test_an_extra_utterance(run, write, reference):
    err = failure(run, "--reference", reference, "--add", f"A={write('a.jsonl', 'hypothesis', [*REFERENCES, 'more'])}")
    assert "1 are not in" in err and "'u12'" in err


def test_doubled_ids(run, tmp_path, reference):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": "u1", "hypothesis": "x"}) + "\n" for _ in range(2)))
    assert "occur more than once ('u1')" in failure(run, "--reference", reference, "--add", f"A={path}")


def test_doubled_ids_in_the_reference(run, tmp_path):
    path = tmp_path / "ref.trn"
    path.write_text("a b (u1)\nc d (u1)\n")
    assert "occur more than once" in failure(run, "--reference", path, "--add", f"A={path}")


def test_other_reference_texts(run, write, reference):
    path = write("a.jsonl", "hypothesis", REFERENCES, reference=["another text", *REFERENCES[1:]])
    err = failure(run, "--reference", reference, "--add", f"A={path}")
    assert "'another text'" in err and "'word0 is said here'" in err


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", '{"id": "u0"\n', "line 1 is not JSON"),
        ("a.jsonl", '{"id": "u0", "text": "x"}\n', "hypothesis is missing"),
        ("a.jsonl", '{"id": "u0", "hypothesis": null}\n', "hypothesis is missing"),
        ("a.jsonl", "[1]\n", "expected an object"),
        ("a.jsonl", "", "contains no utterances"),
        ("a.csv", "id,hypothesis\nu0,a,b\n", "more cells than headings"),
        ("a.csv", "name,hypothesis\nu0,a\n", "id is missing"),
        ("a.trn", "words without an id\n", "expected 'words (utterance-id)'"),
        ("a.txt", "x\n", "are read from .jsonl, .csv or .trn"),
    ],
)
def test_malformed_files(run, tmp_path, reference, name, content, said):
    path = tmp_path / name
    path.write_text(content)
    assert said in failure(run, "--reference", reference, "--add", f"A={path}")


def test_not_utf8_and_not_there(run, tmp_path, reference):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,hypothesis\nu0,caf\xe9\n")
    assert "not UTF-8" in failure(run, "--reference", reference, "--add", f"A={path}")
    assert "cannot read" in failure(run, "--reference", reference, "--add", f"A={tmp_path / 'none.csv'}")


def test_names(run, write, reference):
    path = write("a.jsonl", "hypothesis", REFERENCES)
    assert "expects NAME=FILE" in failure(run, "--reference", reference, "--add", str(path))
    twice = ("--add", f"A={path}", "--add", f"A={path}")
    assert "two systems of the name 'A'" in failure(run, "--reference", reference, *twice)
    assert "did you mean" in failure(run, "--reference", reference, "--add", f"Api={path}", "--against", "Apo")
    assert "unknown column 'wre'" in failure(run, "--reference", reference, "--add", f"A={path}", "--columns", "wre")


def test_references_without_a_word(run, write):
    empty = write("ref.jsonl", "reference", ["", ""])
    path = write("a.jsonl", "hypothesis", ["x", "y"])
    assert "no word is left" in failure(run, "--reference", empty, "--add", f"A={path}")


HARM = "=cmd()|<script>alert(1)</script>$\\end{table}&%_#`*|\x1b[2J\u202eab"


def test_harmful_texts_are_escaped_everywhere(leaderboard, write, reference):
    texts = ["<img src=x onerror=alert(1)>", "=cmd()", r"\input{/etc/passwd}", "سلام عليكم", "", *REFERENCES[5:]]
    added = ("--add", f"{HARM}={write('a.jsonl', 'hypothesis', texts)}")
    other = ("--add", f"B={write('b.jsonl', 'hypothesis', REFERENCES)}")
    found = leaderboard("--reference", reference, *added, *other)
    assert HARM in found.systems
    folder = found.folder
    rows = list(csv.reader((folder / "leaderboard.csv").open(encoding="utf-8", newline="")))
    assert any(cell.startswith("'=cmd()") for row in rows for cell in row)
    assert not any(cell.startswith(("=", "@")) for row in rows for cell in row)
    tex = (folder / "leaderboard.tex").read_text(encoding="utf-8")
    assert tex.count(r"\end{table") == 1
    assert r"\textbackslash{}end\{table\}" in tex
    markdown = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown.replace("\\<script\\>", "")
    assert "\x1b" not in markdown and "\u202e" not in markdown


def test_the_terminal_is_not_steered(run, write, reference):
    code, out, _ = run(
        "--reference", reference, "--add", f"[red]x[/red]\x1b[2J={write('a.jsonl', 'hypothesis', REFERENCES)}"
    )
    assert code == 0
    assert "\x1b[2J" not in out
    assert "[red]x[/red]" in out.replace("\n", "")


def test_a_ten_thousand_word_loop_and_empty_hypotheses(leaderboard, write, reference):
    loop = write("a.jsonl", "hypothesis", ["again " * 10_000, *REFERENCES[1:]])
    silent = write("b.jsonl", "hypothesis", [""] * 12)
    found = leaderboard("--reference", reference, "--add", f"loop={loop}", "--add", f"silent={silent}")
    assert found.systems["loop"]["wer"] == pytest.approx(10_000 / 48)
    assert found.systems["loop"]["over_100_rate"] == pytest.approx(1 / 12)
    assert found.systems["loop"]["loop_rate"] == pytest.approx(1 / 12)
    assert found.systems["silent"]["wer"] == found.systems["silent"]["deletions"] == 1


def test_empty_references_count_their_insertions(leaderboard, write):
    seconds = [3600.0, *[2.0] * 6]
    reference = write("ref.jsonl", "reference", ["", *["a b"] * 6], audio_seconds=seconds)
    found = leaderboard(
        "--reference", reference, "--add", f"A={write('a.jsonl', 'hypothesis', ['x y z', *['a b'] * 6])}"
    )
    assert found.systems["A"]["wer"] == pytest.approx(3 / 12)
    assert found.systems["A"]["insertions_per_silent_hour"] == pytest.approx(3)


def test_csv_and_trn_say_the_same_as_jsonl(leaderboard, tmp_path, write, reference):
    texts = ["word0, is said", *REFERENCES[1:]]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("id", "hypothesis"), *((f"u{n}", text) for n, text in enumerate(texts))])
    (tmp_path / "a.trn").write_text("".join(f"{text} (u{n})\n" for n, text in enumerate(texts)))
    paths = {"jsonl": write("a.jsonl", "hypothesis", texts), "csv": tmp_path / "a.csv", "trn": tmp_path / "a.trn"}
    added = [part for name, path in paths.items() for part in ("--add", f"{name}={path}")]
    found = leaderboard("--reference", reference, *added)
    assert len({(row["wer"], row["wer_raw"], row["cer"]) for row in found.systems.values()}) == 1
    assert all(c["p"] == 1 and c["verdict"] == "no difference shown" for c in found.comparisons.values())


def test_few_speakers_give_no_inference(leaderboard, run, write):
    few = write("few.jsonl", "reference", REFERENCES, speaker=[f"s{n % 4}" for n in range(12)])
    added = [
        "--add",
        f"A={write('a.jsonl', 'hypothesis', REFERENCES)}",
        "--add",
        f"B={write('b.jsonl', 'hypothesis', ['no'] * 12)}",
    ]
    found = leaderboard("--reference", few, *added)
    (pair,) = found.comparisons.values()
    assert (pair["ci_low"], pair["p"], pair["p_holm"], pair["verdict"]) == (None, None, None, "no inference")
    assert found.systems["A"]["ci_high"] is None
    assert "No inference" in (found.folder / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    "text, expected",
    [("a_b", "a_b"), ("_x_", r"\_x\_"), ("a|b", r"a\|b"), ("x\ny", "x y"), ("a\u202eb", r"a\<U+202E\>b")],
)
def test_markdown(text, expected):
    assert escape.markdown(text) == expected


def test_latex_keeps_accents_and_labels_what_it_cannot_set():
    assert escape.latex("Åsa é ß") == "Åsa é ß"
    assert escape.latex("ก") == "U+0E01"


def test_raw_and_normalized_rates_by_hand(leaderboard, write):
    """Capitals and marks: "Häst," and "ko!" and "får." are right but for them; "får" is wrong in both."""
    reference = write("ref.jsonl", "reference", ["Häst, ko!", "En får.", "två\u00a0ord"] * 2)
    path = write("a.jsonl", "hypothesis", ["häst ko", "En för.", "två ord"] * 2)
    row = leaderboard("--reference", reference, "--add", f"A={path}", "--language", "sv").systems["A"]
    assert row["wer"] == pytest.approx(1 / 6)
    assert row["wer_raw"] == pytest.approx(3 / 6)
    assert row["cer"] == pytest.approx(1 / len("häst koen fårtvå ord"))


def test_cer_of_a_script_without_spaces_ignores_spaces(leaderboard, write):
    reference = write("ref.jsonl", "reference", ["私は、学生です。"] * 6)
    path = write("a.jsonl", "hypothesis", ["私は学生です"] * 6)
    for language, expected in (("ja", 0), ("mul", 1 / 7)):
        found = leaderboard("--reference", reference, "--add", f"A={path}", "--language", language)
        assert found.systems["A"]["cer"] == pytest.approx(expected)


def test_counts_in_the_cache_are_of_one_language(tmp_path):
    for language, expected in (("tr", 0), ("sv", 1), ("tr", 0)):
        normalize, label = normalizer("basic", language)
        found = cached_counts(tmp_path, ["IŞIK"], ["ışık"], normalize, label, language)
        assert found.words.errors.tolist() == [expected]
