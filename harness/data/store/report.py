"""Make the data report: the size of each split, excluded clips and why, cuts, and leaks."""

import hashlib
import json
from collections import Counter
from typing import Any

from harness.data.audio import RESAMPLER, SAMPLE_RATE, UndecodableError, decode
from harness.data.labels import CONTROL_TOKEN
from harness.data.sources import Listing
from harness.data.splits import describe_leaks, find_leaks
from harness.data.store.build import UNDECODABLE, PreparedClips
from harness.errors import UserError
from harness.spec.task import SPLITS, Task, Utterance


def make_report(
    task: Task,
    prepared: PreparedClips,
    long: list[Utterance],
    notes: list[str],
    cuts: list[dict[str, object]],
    limits: dict[str, Any],
) -> dict[str, Any]:
    """Return the data report.

    Args:
        task: The task.
        prepared: The prepared clips.
        long: The utterances of test_long.
        notes: Notes of `assign_splits`.
        cuts: Cuts of `assign_splits`.
        limits: Limits on seconds and label tokens.

    Returns:
        Counts and durations (s) by split and source, control tokens in transcripts, exclusions by reason and one by
        one, leaks, and notes.

    Raises:
        UserError: A split has no usable clip.
    """
    kept, excluded = prepared.kept, prepared.excluded
    splits = {}
    for name in SPLITS:
        members = [u for u in kept if u.split == name]
        if not members:
            reasons = Counter(item["reason"] for item in excluded if item["split"] == name)
            raise UserError(f"task {task.name}: no usable clip for {name}; excluded: {dict(reasons)}")
        splits[name] = _summary(members) | {"hash": _hash(members, prepared.digests)}
    digests = {name: value for name, value in prepared.digests.items() if value is not None}
    leaks = find_leaks(kept, digests)
    proxies = sorted({(u.spoken, u.language) for u in kept if u.spoken})
    proxy_notes = [
        f"the model has no token for {spoken}: its labels and prompts use the token of {token} (proxy_language)"
        for spoken, token in proxies
    ]
    return {
        "task": task.name,
        "languages": sorted({u.spoken or u.language for u in kept}),
        "proxy_languages": {spoken: token for spoken, token in proxies},
        "splits": splits,
        "sources": {
            source: {name: _summary(members) for name in SPLITS if (members := _members(kept, source, name))}
            for source in task.source_names()
        },
        "long": {"utterances": len(long), "seconds": _seconds(long)},
        "control_tokens": (control_tokens := _control_tokens(kept)),
        "excluded": dict(Counter(item["reason"] for item in excluded).most_common()),
        "excluded_clips": excluded,
        "cuts": cuts,
        "leaks": leaks,
        "notes": [*proxy_notes, *notes, *_control_token_note(control_tokens), *describe_leaks(leaks)],
        "limits": limits,
        "resampler": RESAMPLER,
    }


def with_weights(report: dict[str, Any], task: Task) -> dict[str, Any]:
    """Add what an epoch contains by the weights of the sources, on which the stored report does not depend."""
    sources = zip(task.source_names(), task.sources, strict=True)
    parts = [(name, source.weight, report["sources"][name].get("train")) for name, source in sources]
    trained = [(name, weight, train) for name, weight, train in parts if train is not None]
    epoch = {key: sum(weight * train[key] for _, weight, train in trained) for key in ("utterances", "seconds")}
    return {
        **report,
        "epoch": {"utterances": max(1, round(epoch["utterances"])), "seconds": round(epoch["seconds"], 2)},
        "notes": [*report["notes"], *(_weight_note(*part) for part in trained if part[1] != 1)],
    }


def _weight_note(name: str, weight: float, train: dict[str, Any]) -> str:
    if weight > 1:
        return f"{name}: weight {weight:g}, so that each training clip occurs {weight:g} times in an epoch"
    seen = f"{round(weight * train['utterances'])} of {train['utterances']} training clips, others each time"
    return f"{name}: weight {weight:g}, so that an epoch has {seen}"


def _members(utterances: list[Utterance], source: str, split: str) -> list[Utterance]:
    return [u for u in utterances if u.dataset == source and u.split == split]


def _summary(members: list[Utterance]) -> dict[str, Any]:
    return {
        "utterances": len(members),
        "seconds": _seconds(members),
        "speakers": len({(u.dataset, u.speaker) for u in members if u.speaker}),
    }


def _control_tokens(utterances: list[Utterance]) -> dict[str, int]:
    """Return how many transcripts contain each control token of Whisper."""
    return dict(Counter(token for u in utterances for token in set(CONTROL_TOKEN.findall(u.text))).most_common())


def _control_token_note(found: dict[str, int]) -> list[str]:
    if not found:
        return []
    named = ", ".join(f"{token} ({count})" for token, count in list(found.items())[:5])
    return [f"transcripts contain control tokens, here read as plain text; remove them if they are markup: {named}"]


def _seconds(members: list[Utterance]) -> float:
    return round(sum(u.seconds or 0.0 for u in members), 2)


def _hash(members: list[Utterance], digests: dict[str, str | None]) -> str:
    """Return a hash of the split's ids, transcripts and audio."""
    content = json.dumps([[u.id, u.text, digests[u.id]] for u in members], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def measure_long_recordings(
    utterances: list[Utterance], listing: Listing
) -> tuple[list[Utterance], list[dict[str, str]]]:
    """Return the utterances of test_long with their seconds, and the undecodable ones as excluded."""
    kept, excluded = [], []
    for utterance in utterances:
        path = listing.path(utterance)
        try:
            clip = decode(path, utterance.offset, utterance.duration)
        except UndecodableError as error:
            excluded.append({"id": utterance.id, "split": utterance.split, "reason": UNDECODABLE, "detail": str(error)})
        else:
            kept.append(utterance.model_copy(update={"seconds": round(len(clip) / SAMPLE_RATE, 3)}))
    return kept, excluded
