"""Read corpora with a layout of their own: Common Voice, LibriSpeech, and one folder per speaker."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.data.sources.rows import Row, choose_columns, make_row
from harness.data.sources.tables import read_columns, read_records
from harness.errors import UserError, nearest
from harness.spec.task import Columns, CommonVoiceSource, LibriSpeechSource, SpeakerFoldersSource

COMMON_VOICE = {"train": "train", "dev": "validation", "test": "test"}
# The last five cannot be decoded; they are listed, so that they are reported.
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".wma", ".webm", ".mp4"}


def read_common_voice(source: CommonVoiceSource, columns: Columns) -> Iterator[Row]:
    """Read train.tsv, dev.tsv and test.tsv with their clips; these official splits share no speaker."""
    folder = source.folder
    missing = [name for name in ("clips", "train.tsv", "dev.tsv", "test.tsv") if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}; expected the folder of one language in an unpacked "
            "Common Voice archive: clips/, train.tsv, dev.tsv, test.tsv"
        )
    for table, split in COMMON_VOICE.items():
        chosen: dict[str, str] | None = None
        target = "train" if source.merge_validation and split == "validation" else split
        for place, values in read_records(folder / f"{table}.tsv", source.encoding):
            if chosen is None:
                chosen = choose_columns(columns, list(values), f"{table}.tsv")
            row = make_row(values, chosen, columns.groups, place)
            # The table determines the split, not its segment column, which marks single-word recordings.
            yield replace(row, file=f"clips/{row.file}", split=target)


def read_librispeech(source: LibriSpeechSource) -> Iterator[Row]:
    """Read the lines of all .trans.txt files; speaker and chapter are folders."""
    for subset, split in source.subsets.items():
        folder = source.folder / subset
        if not folder.is_dir():
            existing = [path.name for path in source.folder.glob("*/")] if source.folder.is_dir() else []
            raise UserError(f"there is no subset {subset!r} in {source.folder}; {nearest(subset, existing)}")
        transcripts = sorted(folder.glob("*/*/*.trans.txt"))
        if not transcripts:
            raise UserError(f"{folder} contains no SPEAKER/CHAPTER/*.trans.txt; is it LibriSpeech's own layout?")
        for path in transcripts:
            speaker, chapter = path.parent.parent.name, path.parent.name
            for number, line in enumerate(_read_text(path, source.encoding).split("\n"), start=1):
                name, _, text = line.strip().partition(" ")
                if name:
                    file = f"{subset}/{speaker}/{chapter}/{name}.flac"
                    yield Row(f"{path.name} line {number}", file, text, split, speaker=speaker, condition=subset)


def read_speaker_folders(source: SpeakerFoldersSource, columns: Columns) -> Iterator[Row]:
    """Read all clips below each speaker's folder; a clip without a transcript has an empty text and is excluded later.

    If the source's `splits` name speakers, the row's split is the name of the speaker's folder.
    """
    folder = source.folder
    texts = None if not source.texts else _shared_texts(folder / source.texts, columns, source.encoding)
    for speaker in sorted(path for path in folder.glob("*/") if not path.name.startswith(".")):
        for clip in sorted(path for path in speaker.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES):
            file = clip.relative_to(folder).as_posix()
            transcript = clip.with_suffix(".txt")
            if texts is not None:
                text = texts.get(clip.stem, "")
            else:
                text = _read_text(transcript, source.encoding).strip() if transcript.is_file() else ""
            yield Row(file, file, text, speaker.name if source.splits else "", speaker=speaker.name)


def _shared_texts(path: Path, columns: Columns, encoding: str) -> dict[str, str]:
    """Read a table with one text for all clips of the same name; return name -> text."""
    texts: dict[str, str] = {}
    existing = read_columns(path, encoding)
    names = (columns.id, columns.file, "id", "name", "file")
    key = next((name for name in names if name is not None and name in existing), None)
    if key is None:
        raise UserError(f"{path} has no column id, name or file; it has {', '.join(existing)}")
    text = choose_columns(Columns(file=key, text=columns.text), existing, path.name)["text"]
    for place, values in read_records(path, encoding):
        name = Path(str(values.get(key) or "")).stem
        if name in texts:
            raise UserError(f"{place}: {name!r} is listed twice")
        texts[name] = str(values.get(text) or "").strip()
    return texts


def _read_text(path: Path, encoding: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {encoding.upper()} (byte {error.start}); name the source's encoding") from None
