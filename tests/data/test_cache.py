"""The feature cache: shared, whole or absent, resumed, and never of other audio."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from recordings import make_folder, write_clip

from harness import cache as cache_command
from harness.data.store import build as building
from harness.data.store.entry import DESCRIPTION, FEATURES

PREPARE = """
    import sys, time
    from pathlib import Path
    from transformers import WhisperFeatureExtractor
    from harness.data.store import build as building
    from harness.data.store.prepare import prepare
    from harness.spec.task import Task
    building.CHUNK = 4
    load, seen = building.decode_with_digest, []
    def slow(*given):
        seen.append(given)
        time.sleep({pause})
        return load(*given)
    building.decode_with_digest = slow
    task = Task.parse({{"name": "test", "language": "en", "folder": sys.argv[1]}}, "test")
    print("ready", flush=True)
    speech = prepare(task, WhisperFeatureExtractor(), lambda text, language: 5, 448, Path(sys.argv[2]), progress=print)
    print(f"decoded {{len(seen)}}, features {{hash(speech.features.tobytes())}}", flush=True)
"""


def start(folder, cache, pause=0.0):
    script = textwrap.dedent(PREPARE.format(pause=pause))
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(cache)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_two_processes_share_one_preparation(folder, tmp_path):
    first = start(folder, tmp_path / "c", pause=0.8)
    second = start(folder, tmp_path / "c", pause=0.8)
    outputs = sorted((process.communicate(timeout=120)[0] for process in (first, second)), key=len)
    assert first.returncode == second.returncode == 0
    results = [output.strip().splitlines()[-1].split(", ") for output in outputs]
    assert sorted(result[0] for result in results) == ["decoded 0", "decoded 12"], outputs
    assert results[0][1] == results[1][1]
    assert any("waiting for another process" in output for output in outputs)


def test_a_killed_preparation_goes_on(folder, tmp_path):
    make_folder(folder, 24)
    process = start(folder, tmp_path / "c", pause=0.2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        journals = list((tmp_path / "c").glob("features/*.partial/progress.jsonl"))
        if journals and journals[0].read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = 4 * journals[0].read_bytes().count(b"\n")
    assert 8 <= done < 24, "it was killed too late to show anything"
    again = start(folder, tmp_path / "c")
    fresh = start(folder, tmp_path / "other")
    one, other = (p.communicate(timeout=120)[0].strip().splitlines()[-1] for p in (again, fresh))
    assert one.split(", ")[0] == f"decoded {24 - done}"
    assert one.split(", ")[1] == other.split(", ")[1], "the resumed features differ from those made in one go"


@pytest.fixture
def entry(folder, prepared, tmp_path):
    """The folder of a finished entry, its features, and a way to open it that counts what is decoded."""
    first = prepared(folder=folder)
    features = np.array(first.features)

    def again(monkeypatch):
        loaded, load = [], building.decode_with_digest
        monkeypatch.setattr(building, "decode_with_digest", lambda *given: loaded.append(given) or load(*given))
        speech = prepared(folder=folder)
        np.testing.assert_array_equal(speech.features, features)
        return len(loaded)

    return first.entry, again


def test_an_entry_is_used_again(entry, monkeypatch):
    assert entry[1](monkeypatch) == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "torn json", "no stamps", "empty"])
def test_a_damaged_entry_is_rebuilt(entry, monkeypatch, damage):
    place, again = entry
    features = place / FEATURES
    if damage == "cut":
        os.truncate(features, features.stat().st_size - 1000)
    elif damage == "flipped":
        with features.open("r+b") as file:
            file.seek(5000)
            byte = file.read(1)
            file.seek(5000)
            file.write(bytes([byte[0] ^ 1]))
    elif damage == "gone":
        features.unlink()
    elif damage == "torn json":
        os.truncate(place / DESCRIPTION, 100)
    elif damage == "no stamps":
        (place / "stamps.json").unlink()
    else:
        for path in place.iterdir():
            path.unlink()
    assert again(monkeypatch) == 12


def test_a_copy_with_other_times_is_the_same_data(entry, folder, monkeypatch):
    place, again = entry
    for path in [*folder.rglob("*.wav"), place / FEATURES]:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert again(monkeypatch) == 0
    assert json.loads((place / "stamps.json").read_text())["audio"] == [1_000_000_000 * 10**9] * 12


def test_another_recording_of_the_same_size_is_noticed(folder, prepared):
    before = prepared(folder=folder)
    hashes = {name: split["hash"] for name, split in before.report["splits"].items()}
    changed = before.utterances[0]
    old = np.array(before.features[0])
    write_clip(folder / changed.file, pitch=999)
    after = prepared(folder=folder)
    assert not np.array_equal(after.features[0], old)
    assert after.report["splits"][changed.split]["hash"] != hashes[changed.split]


def test_settings_of_the_model_have_entries_of_their_own(folder, prepared, tmp_path):
    from transformers import WhisperFeatureExtractor

    from harness.data.store.prepare import prepare

    first = prepared(folder=folder)
    large = prepare(first.task, WhisperFeatureExtractor(feature_size=128), lambda *_: 5, 448, tmp_path / "cache")
    assert large.features.shape[1:] == (128, 3000) and large.entry != first.entry
    assert len(list((tmp_path / "cache/features").glob("*/entry.json"))) == 2


def test_the_command_lists_and_clears(entry, tmp_path, capsys):
    place = str(tmp_path / "cache")
    assert cache_command.main(["--cache-dir", place]) == 0
    shown = capsys.readouterr().out
    assert "features" in shown and "test" in shown and "1 entries" in shown
    assert cache_command.main(["--cache-dir", place, "--clear", "tset"]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err
    assert cache_command.main(["--cache-dir", place, "--clear", "test"]) == 0
    assert not entry[0].exists()
    assert cache_command.main(["--cache-dir", place]) == 0
    assert "0 entries" in capsys.readouterr().out
