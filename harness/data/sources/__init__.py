"""Read the sources of a task into utterances, each with a path in a local folder.

One reader per kind of source belongs here, and the checks that all sources share (`rows`). Audio is not decoded here,
and splits are not drawn: see `data.audio` and `data.splits`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.data.sources.corpora import read_common_voice, read_librispeech, read_speaker_folders
from harness.data.sources.hub import export_hub_dataset
from harness.data.sources.manifests import read_kaldi, read_manifest
from harness.data.sources.rows import Row, columns_of, make_utterances
from harness.data.sources.tables import read_folder
from harness.spec.task import (
    Columns,
    CommonVoiceSource,
    FolderSource,
    HubSource,
    KaldiSource,
    LibriSpeechSource,
    ManifestSource,
    Source,
    SpeakerFoldersSource,
    Task,
    Utterance,
)


@dataclass(frozen=True)
class Listing:
    """The utterances of all sources, and the folder of each source by its name."""

    utterances: list[Utterance]
    folders: dict[str, Path]

    def path(self, utterance: Utterance) -> Path:
        """Return the path of an utterance's file on this machine."""
        return self.folders[utterance.dataset] / utterance.file


def read_sources(task: Task, cache: Path) -> Listing:
    """List the utterances of all sources; hub datasets are first exported to `cache`.

    Raises:
        UserError: A source cannot be read; the message names the line if there is one.
    """
    utterances: list[Utterance] = []
    folders: dict[str, Path] = {}
    for name, source in zip(task.source_names(), task.sources, strict=True):
        local = source
        if isinstance(source, HubSource):
            hub = source.model_dump(include={"split", "splits", "language", "proxy_language"})
            columns = columns_of(task, source).model_copy(update={"file": "file_name"})
            local = FolderSource(folder=export_hub_dataset(source, cache), columns=columns, name=name, **hub)
        assert not isinstance(local, HubSource)
        folders[name] = local.folder
        utterances += make_utterances(task, local, name, local.folder, _rows(local, columns_of(task, local)))
    return Listing(utterances, folders)


def _rows(source: Source, columns: Columns) -> Iterator[Row]:
    match source:
        case FolderSource():
            return read_folder(source, columns)
        case ManifestSource():
            return read_manifest(source, columns)
        case KaldiSource():
            return read_kaldi(source)
        case CommonVoiceSource():
            return read_common_voice(source, columns)
        case LibriSpeechSource():
            return read_librispeech(source)
        case SpeakerFoldersSource():
            return read_speaker_folders(source, columns)
        case HubSource():
            raise AssertionError("a hub source is exported to a folder before it is read")
