"""A task: what is spoken, where the recordings are, how they are split, and how transcripts are compared."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.spec.base import Spec

SPLITS = ("train", "validation", "test")
LONG = "test_long"  # clips longer than the model's window, for long-form decoding; not in the feature cache
Split = Literal["train", "validation", "test", "test_long"]


class Columns(Spec):
    """Which columns (or JSON fields) hold what; unset ones are looked for under their usual names."""

    file: str | None = None
    text: str | None = None
    id: str | None = Field(None, description="unset: the file's path is the utterance's id")
    speaker: str | None = None
    condition: str | None = None
    language: str | None = None
    split: str | None = None
    groups: tuple[str, ...] = Field((), description="further columns kept with each utterance, such as accent or song")


class SourceBase(Spec):
    """What all kinds of sources have in common."""

    name: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="the utterances' `dataset`; unset: the folder's name"
    )
    split: Split | None = Field(None, description="all of this source is for this split; nothing is cut from it")
    splits: dict[str, Split | None] = Field(
        {}, description="the source's own name of a split -> ours; null leaves it out; unnamed ones are guessed"
    )
    columns: Columns | None = Field(None, description="unset: the task's")
    language: str | None = Field(None, description="unset: the task's, else the language column")
    proxy_language: str | None = Field(None, description="unset: the task's")
    weight: float = Field(1.0, gt=0, description="how often an epoch holds each training clip: 2 is twice, 0.5 half")
    caps: dict[Split, int] = Field({}, description="at most so many utterances in a split, drawn with the split's seed")
    encoding: str = Field("utf-8", description="of tables and transcripts")


class FolderSource(SourceBase):
    """A folder with metadata.csv, .tsv or .jsonl, at its top or in a folder for each split (audiofolder)."""

    kind: Literal["folder"] = "folder"
    folder: Path
    table: str | None = Field(None, description="the table's path in the folder; unset: metadata.csv, .tsv or .jsonl")


class ManifestSource(SourceBase):
    """JSON lines with audio_filepath, text and duration (and offset), as NeMo and others write them."""

    kind: Literal["manifest"]
    folder: Path = Field(description="where the audio lies; paths relate to it and must stay in it")
    manifests: dict[str, Path] | Path = Field(description="a file, or one for each split; relative to the folder")


class KaldiSource(SourceBase):
    """Kaldi data folders: wav.scp and text, and if there utt2spk and segments."""

    kind: Literal["kaldi"]
    folder: Path = Field(description="where the audio lies; the paths of wav.scp relate to it and must stay in it")
    data: dict[str, Path] | Path = Field(
        Path("."), description="a data folder, or one for each split; relative to the folder"
    )


class CommonVoiceSource(SourceBase):
    """An unpacked Common Voice archive of one language: clips/, train.tsv, dev.tsv, test.tsv."""

    kind: Literal["common_voice"]
    folder: Path
    merge_validation: bool = Field(
        False, description="train on train and dev, as PEFT's guide does; validation is then cut from them"
    )


class LibriSpeechSource(SourceBase):
    """LibriSpeech's layout: SUBSET/SPEAKER/CHAPTER/*.flac beside SPEAKER-CHAPTER.trans.txt."""

    kind: Literal["librispeech"]
    folder: Path
    subsets: dict[str, Split] = Field(min_length=1, description="a subset's folder, such as dev-clean -> our split")


class SpeakerFoldersSource(SourceBase):
    """One folder a speaker; a transcript beside each clip (.txt), or one table of texts for all of them."""

    kind: Literal["speaker_folders"]
    folder: Path
    texts: str | None = Field(
        None, description="a table in the folder: a clip's name without ending, and its text; unset: .txt files"
    )


class HubSource(SourceBase):
    """A parquet-native dataset of the Hugging Face hub, or a local folder of parquet files laid out like one."""

    kind: Literal["hub"]
    dataset: str = Field(description="the hub's name, such as google/fleurs, or a folder")
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
    """A file of tasks/, or task.yaml in a folder of speech.

    `folder: F` is short for one source of kind `folder`.
    """

    name: str = Field(pattern=r"^[\w.-]+$", description="letters, digits, '.', '_' and '-'")
    description: str = ""
    sources: tuple[Source, ...]
    language: str | None = Field(None, description="Whisper's code, such as sv; unset: the language column")
    proxy_language: str | None = Field(
        None, description="Whisper's language whose token stands for one that Whisper does not know"
    )
    task: Literal["transcribe", "translate"] = "transcribe"
    columns: Columns = Columns()
    normalizer: str | None = Field(None, description="unset: english for en, else basic with marks kept")
    min_seconds: float = Field(0.1, ge=0, description="shorter clips are left out")
    max_seconds: float = Field(
        30.0, gt=0, description="longer clips are left out, as are those over the model's window"
    )
    held_out: str = Field(
        "auto",
        description="what a cut split shares nothing of with train: speaker, condition, dataset or a group column; "
        "utterance: clips are drawn one by one; auto: speaker where three or more are named",
    )
    split_seed: int = Field(0, description="of the splits that are cut; a property of the data, not of a study")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="more broken files than this stop the preparation")

    @model_validator(mode="before")
    @classmethod
    def _folder_is_a_source(cls, raw: Any) -> Any:
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
    def _sources_have_names(self) -> Self:
        names = self.source_names()
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two sources are called {doubled[0]!r}; give each its own name")
        return self

    def source_names(self) -> list[str]:
        """The name of each source, which its utterances carry as `dataset`."""
        return [source.name or _usual_name(source) for source in self.sources]

    def without_places(self) -> dict[str, Any]:
        """All settings but the description and the places, which differ from machine to machine."""
        places = {"folder", "manifests", "data", "table", "texts"}
        value = self.model_dump(mode="json", exclude={"description": True, "sources": {"__all__": places}})
        for source, name in zip(value["sources"], self.source_names(), strict=True):
            source["name"] = name
            if source["kind"] == "hub" and Path(source["dataset"]).is_dir():
                source["dataset"] = name
        return value


def _usual_name(source: Source) -> str:
    if isinstance(source, HubSource):
        last = source.dataset.rstrip("/").rsplit("/", 1)[-1]
        return f"{last}-{source.config}" if source.config else last
    return source.folder.resolve().name


class Utterance(Spec):
    """One clip and its transcript; `file` is relative to the folder of the source named `dataset`."""

    id: str
    file: str
    text: str
    language: str = Field(description="the Whisper language whose token the label bears")
    spoken: str | None = Field(None, description="the language itself, where `language` is a proxy for it")
    split: str
    speaker: str | None = None
    condition: str | None = None
    dataset: str
    groups: dict[str, str] = Field({})
    offset: float | None = Field(None, ge=0, description="seconds into the file at which the clip begins")
    duration: float | None = Field(None, gt=0, description="seconds of the clip; given with an offset")
    seconds: float | None = None

    def group(self, name: str) -> str | None:
        """The value of speaker, condition, dataset, language or a group column."""
        if name in ("speaker", "condition", "dataset", "language"):
            value: str | None = getattr(self, name)
            return value
        return self.groups.get(name)
