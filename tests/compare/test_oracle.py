"""The figures of NIST SCTK 2.4.10 (sclite -s, sc_stats) for the files of golden/, through compare.py."""

import pytest
from made import GOLDEN

# reference words, substitutions, deletions, insertions, utterances with errors
SCLITE = {
    "A": (4649, 481, 144, 231, 327),
    "B": (4649, 429, 163, 129, 312),
    "C": (4649, 510, 166, 154, 332),
}
# segments, mean, standard deviation, Z
SC_STATS = {
    ("A", "B"): (783, 0.172, 2.551, 1.891),
    ("A", "C"): (788, 0.033, 2.506, 0.370),
    ("B", "C"): (784, -0.139, 1.377, -2.828),
}


@pytest.fixture
def golden(leaderboard):
    added = [part for name in SCLITE for part in ("--add", f"{name}={GOLDEN / f'syn.hyp{name}.trn'}")]
    return leaderboard("--reference", GOLDEN / "syn.ref.trn", *added)


def test_errors_and_their_split_are_sclites(golden):
    for name, (words, substitutions, deletions, insertions, wrong) in SCLITE.items():
        row = golden.systems[name]
        assert row["substitutions"] * words == pytest.approx(substitutions)
        assert row["deletions"] * words == pytest.approx(deletions)
        assert row["insertions"] * words == pytest.approx(insertions)
        assert row["wer"] * words == pytest.approx(substitutions + deletions + insertions)
        assert row["sentence_error_rate"] * 400 == pytest.approx(wrong)


def test_matched_pairs_are_sc_stats(golden):
    for pair, (segments, mean, sd, z) in SC_STATS.items():
        found = golden.comparisons[pair]
        assert found["mapsswe_segments"] == segments
        assert found["mapsswe_mean"] == pytest.approx(mean, abs=0.0005)
        assert found["mapsswe_sd"] == pytest.approx(sd, abs=0.0005)
        assert found["mapsswe_z"] == pytest.approx(z, abs=0.0005)


def test_speakers_of_trn_ids_are_the_blocks(golden):
    text = (golden.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "K = 20 speakers" in text


def test_pairs_without_a_named_reference_are_one_family(golden):
    assert [c["family"] for c in golden.comparisons.values()] == [3, 3, 3]


def test_the_loop_is_seen(golden):
    assert golden.systems["A"]["loop_rate"] == pytest.approx(1 / 400)
    assert golden.systems["B"]["loop_rate"] == 0
