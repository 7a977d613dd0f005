import json
import shutil

import pytest

from harness.records.files import write_json

SPEAKERS, WORDS = 6, 4


@pytest.fixture
def decode_test(studies):
    """Store made-up test transcripts beside runs of the LoRA study, as compare.py does; all is removed afterwards."""
    study, made = studies.results / "lora", []

    def write(place: str, wrong_words: int, **record) -> None:
        """Let one word in `wrong_words` utterances of each speaker's two be wrong, and two words in the first's."""
        folder = study / place
        if not folder.is_dir():
            made.append(folder)
            base = json.loads((study / "trials/0/result.json").read_text())
            write_json(folder / "result.json", {**base, "number": None, **record})
        lines = []
        for n in range(2 * SPEAKERS):
            wrong = wrong_words if n >= SPEAKERS else 0
            wrong += n == 0
            words = [f"word{n}{w}" for w in range(WORDS)]
            said = ["x"] * wrong + words[wrong:]
            lines.append({"id": f"u{n}", "speaker": f"s{n % SPEAKERS}", "reference": " ".join(words), "hypothesis": " ".join(said)})  # fmt: skip
        (folder / "test.jsonl").write_text("".join(json.dumps({**line, "audio_seconds": 1.0}) + "\n" for line in lines))
        write_json(folder / "test.json", {"decoding": {"strategy": "greedy", "max_new_tokens": 60}})
        made.extend([folder / "test.jsonl", folder / "test.json"])

    yield write
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
