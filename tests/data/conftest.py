"""A preparation without a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import make_folder
from transformers import WhisperFeatureExtractor

from harness.data.store.prepare import Speech, prepare
from harness.spec.task import Task

Prepare = Callable[..., Speech]


@pytest.fixture(scope="session")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=80)


def words(text: str, language: str) -> int:
    """Label tokens, as if every word were one, with the prompt and the end."""
    return len(text.split()) + 5


@pytest.fixture
def prepared(tmp_path: Path, extractor: WhisperFeatureExtractor) -> Prepare:
    """Prepare a task given by its fields, into a cache of this test."""

    def run(cache: Path | None = None, max_label_tokens: int = 448, progress=lambda text: None, **fields) -> Speech:
        fields = {"name": "test", "language": "en", "max_bad_fraction": 1.0, **fields}
        task = Task.parse(fields, "test")
        return prepare(task, extractor, words, max_label_tokens, cache or tmp_path / "cache", progress=progress)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve good clips of four speakers."""
    place = tmp_path / "speech"
    make_folder(place)
    return place
