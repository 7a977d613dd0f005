"""Define a task: data sources, language, splits and text normalization."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.spec.base import Spec

SPLITS = ("train", "validation", "test")
LONG = "test_long"  # clips longer than the model's window, for long-form decoding; not in the feature store
Split = Literal["train", "validation", "test", "test_long"]


class Columns(Spec):
    """Names of the columns (or JSON fields); unset ones are found by their usual names."""

    file: str | None = None
    text: str | None = None
    id: str | None = Field(None, description="unset: the path of the file is the id")
    speaker: str | None = None
    condition: str | None = None
    language: str | None = None
    split: str | None = None
    groups: tuple[str, ...] = Field(
        (), description="further columns to keep with each utterance, such as accent or song"
    )


class SourceBase(Spec):
    """Fields of all kinds of sources."""

    name: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="the utterances' `dataset`; unset: the folder's name"
    )
    split: Split | None = Field(None, description="the split of the whole source; no other split is cut from it")
    splits: dict[str, Split | None] = Field(
        {}, description="name of a split in the source -> split; null excludes it; usual names need not be listed"
    )
    columns: Columns | None = Field(None, description="unset: the task's")
    language: str | None = Field(None, description="unset: the task's, else the language column")
    proxy_language: str | None = Field(None, description="unset: the task's")
    weight: float = Field(
        1.0,
        gt=0,
        description="how often a training clip occurs in an epoch: 2 is twice; 0.5 is half of the clips, drawn anew",
    )
    caps: dict[Split, int] = Field({}, description="split -> its maximum number of utterances, drawn with split_seed")
    encoding: str = Field("utf-8", description="text encoding of tables and transcripts")


class FolderSource(SourceBase):
    """A folder with metadata.csv, .tsv or .jsonl, at its top or in a folder for each split (audiofolder)."""

    kind: Literal["folder"] = "folder"
    folder: Path
    table: str | None = Field(None, description="the table's path in the folder; unset: metadata.csv, .tsv or .jsonl")


class ManifestSource(SourceBase):
    """JSON lines with audio_filepath, text, duration and optionally offset, as in NeMo."""

    kind: Literal["manifest"]
    folder: Path = Field(description="folder of the audio; paths are relative to it and must stay in it")
    manifests: dict[str, Path] | Path = Field(description="a file, or one per split; relative to the folder")


class KaldiSource(SourceBase):
    """Kaldi data folders: wav.scp and text, optionally utt2spk and segments."""

    kind: Literal["kaldi"]
    folder: Path = Field(description="folder of the audio; paths in wav.scp are relative to it and must stay in it")
    data: dict[str, Path] | Path = Field(
        Path("."), description="a data folder, or one per split; relative to the folder"
    )


class CommonVoiceSource(SourceBase):
    """An unpacked Common Voice archive of one language: clips/, train.tsv, dev.tsv, test.tsv."""

    kind: Literal["common_voice"]
    folder: Path
    merge_validation: bool = Field(
        False, description="train on train and dev, as in PEFT's guide; validation is then cut from them"
    )


class LibriSpeechSource(SourceBase):
    """The layout of LibriSpeech: SUBSET/SPEAKER/CHAPTER/*.flac and SPEAKER-CHAPTER.trans.txt."""

    kind: Literal["librispeech"]
    folder: Path
    subsets: dict[str, Split] = Field(min_length=1, description="folder of a subset, such as dev-clean -> split")


class SpeakerFoldersSource(SourceBase):
    """One folder per speaker, with a .txt transcript beside each clip or one table of texts for all speakers."""

    kind: Literal["speaker_folders"]
    folder: Path
    texts: str | None = Field(
        None, description="table in the folder with names of clips, without suffix, and texts; unset: .txt files"
    )


class HubSource(SourceBase):
    """A parquet dataset of the Hugging Face Hub, or a local folder of parquet files with the same layout."""

    kind: Literal["hub"]
    dataset: str = Field(description="name on the hub, such as google/fleurs, or a folder")
    config: str | None = None
    revision: str | None = None
    data_files: dict[str, str] | None = Field(None, description="split -> pattern of parquet files in the repository")
    audio_column: str = "audio"


Source = Annotated[
    FolderSource
    | ManifestSource
    | KaldiSource
    | CommonVoiceSource
    | LibriSpeechSource
    | SpeakerFoldersSource
    | HubSource,
    Field(discriminator="kind"),
]


class Task(Spec):
    """A file of tasks/, or task.yaml in a folder of recordings.

    `folder: F` is short for one source of kind `folder`.
    """

    name: str = Field(pattern=r"^[\w.-]+$", description="letters, digits, '.', '_' and '-'")
    description: str = ""
    sources: tuple[Source, ...]
    language: str | None = Field(None, description="Whisper's code, such as sv; unset: the language column")
    proxy_language: str | None = Field(
        None, description="language whose token is used for a language that the model has no token for"
    )
    task: Literal["transcribe", "translate"] = "transcribe"
    columns: Columns = Columns()
    normalizer: str | None = Field(None, description="unset: english for en, else basic with diacritics kept")
    min_seconds: float = Field(0.1, ge=0, description="shorter clips are excluded")
    max_seconds: float = Field(
        30.0, gt=0, description="longer clips are excluded, also those longer than the model's window"
    )
    held_out: str = Field(
        "auto",
        description="group that a cut split does not share with train: speaker, condition, dataset or a group column; "
        "utterance: clips are drawn individually; auto: speaker if three or more are known, else utterance",
    )
    split_seed: int = Field(0, description="seed of the splits that are cut; a property of the data, not of a study")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="a larger fraction of undecodable files stops the preparation"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        if "folder" in raw:
            if "sources" in raw:
                raise ValueError("give either folder or sources, not both")
            raw["sources"] = [{"kind": "folder", "folder": raw.pop("folder"), "name": raw.get("name")}]
        if not raw.get("sources"):
            raise ValueError("give folder: PATH, or a list of sources (see docs/how-to/data-sources.md)")
        if isinstance(raw.get("sources"), (list, tuple)):
            raw["sources"] = [{"kind": "folder", **s} if isinstance(s, dict) else s for s in raw["sources"]]
        return raw

    @model_validator(mode="after")
    def _check_source_names(self) -> Self:
        names = self.source_names()
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"two sources are called {duplicates[0]!r}; give each its own name")
        return self

    def source_names(self) -> list[str]:
        """Return the name of each source, which is the `dataset` of its utterances."""
        return [source.name or _default_name(source) for source in self.sources]

    def without_paths(self) -> dict[str, Any]:
        """Return all settings except the description and the paths, which differ between machines."""
        paths = {"folder", "manifests", "data", "table", "texts"}
        value = self.model_dump(mode="json", exclude={"description": True, "sources": {"__all__": paths}})
        for source, name in zip(value["sources"], self.source_names(), strict=True):
            source["name"] = name
            if source["kind"] == "hub" and Path(source["dataset"]).is_dir():
                source["dataset"] = name
        return value


def _default_name(source: Source) -> str:
    if isinstance(source, HubSource):
        name = source.dataset.rstrip("/").rsplit("/", 1)[-1]
        return f"{name}-{source.config}" if source.config else name
    return source.folder.resolve().name


class Utterance(Spec):
    """One clip and its transcript; `file` is relative to the folder of the source named `dataset`."""

    id: str
    file: str
    text: str
    language: str = Field(description="the language of Whisper whose token the label contains")
    spoken: str | None = Field(None, description="the spoken language, if `language` is a proxy for it")
    split: str
    speaker: str | None = None
    condition: str | None = None
    dataset: str
    groups: dict[str, str] = Field({})
    offset: float | None = Field(None, ge=0, description="start of the clip in the file, seconds")
    duration: float | None = Field(None, gt=0, description="length of the clip, seconds; given with an offset")
    seconds: float | None = None

    def group(self, name: str) -> str | None:
        """Return the value of speaker, condition, dataset, language or a group column; None if unknown."""
        if name in ("speaker", "condition", "dataset", "language"):
            value: str | None = getattr(self, name)
            return value
        return self.groups.get(name)
