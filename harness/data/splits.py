"""Assign utterances to train, validation and test, and detect leaks between the splits."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from harness.errors import UserError, nearest
from harness.spec.task import SPLITS, Split, Task, Utterance

FRACTION = 0.1  # of a source's utterances, for a split that the source lacks
MAX_UTTERANCES = 500  # in such a split, per source


def assign_splits(
    task: Task, utterances: list[Utterance]
) -> tuple[list[Utterance], list[str], list[dict[str, object]]]:
    """Assign every utterance to a split, source by source; splits that a source lacks are cut from its train.

    Official splits are not changed. A split that is cut shares no speaker (or other group, see Task.held_out) with
    train where the groups allow it. Validation is cut like the official test: by utterance if test and train share
    groups. Groups are drawn in the order of a hash of seed and name, so that adding a recording moves no other.

    Returns:
        The utterances; notes for the user; and the rule, seed and groups of each cut, for the data report.

    Raises:
        UserError: A split stays empty, or a held-out rule is violated.
    """
    _check_held_out(task, utterances)
    assigned: list[Utterance] = []
    notes: list[str] = []
    cuts: list[dict[str, object]] = []
    for name, source in zip(task.source_names(), task.sources, strict=True):
        members = [u for u in utterances if u.dataset == name]
        if source.split is None:
            members = _cut_missing_splits(task, name, members, notes, cuts)
        assigned += _apply_caps(task, name, members, source.caps, notes)
    for split in SPLITS:
        if not any(u.split == split for u in assigned):
            raise UserError(
                f"task {task.name}: no utterances for {split}: {len(utterances)} in all, and it could not be cut"
            )
    return assigned, notes, cuts


def _cut_missing_splits(
    task: Task, source: str, members: list[Utterance], notes: list[str], cuts: list[dict[str, object]]
) -> list[Utterance]:
    assigned = [u if u.split else u.model_copy(update={"split": "train"}) for u in members]
    for split in ("test", "validation"):
        train = [u for u in assigned if u.split == "train"]
        if len(train) < 2 or any(u.split == split for u in assigned):
            continue
        rule = _cut_rule(task, train)
        if rule != "utterance" and task.held_out == "auto" and split == "validation":
            test = [u for u in assigned if u.split == "test"]
            rule = "utterance" if _groups(train, rule) & _groups(test, rule) else rule
        chosen, groups = _cut(train, rule, task.split_seed)
        if not chosen:
            continue
        assigned = [u.model_copy(update={"split": split}) if u.id in chosen else u for u in assigned]
        notes.append(f"{split} was cut from {source}'s train by {rule} ({len(chosen)} utterances)")
        cuts.append({"split": split, "source": source, "by": rule, "seed": task.split_seed, "groups": groups})
    return assigned


def _cut_rule(task: Task, train: list[Utterance]) -> str:
    """Return a group's name or "utterance"; `auto` means speaker if all are known and there are at least three."""
    if task.held_out == "auto":
        known = all(u.speaker for u in train) and len(_groups(train, "speaker")) >= 3
        return "speaker" if known else "utterance"
    if task.held_out == "utterance":
        return "utterance"
    if any(u.group(task.held_out) is None for u in train):
        valid = {"speaker", "condition", "dataset", *(name for u in train for name in u.groups)}
        raise UserError(
            f"task {task.name}: held_out is {task.held_out!r}, but {train[0].dataset} has utterances without it; "
            f"{nearest(task.held_out, valid | {'auto', 'utterance'})}"
        )
    return task.held_out


def _groups(utterances: Iterable[Utterance], name: str) -> set[str]:
    return {value for u in utterances if (value := u.group(name)) is not None}


def _cut(train: list[Utterance], rule: str, seed: int) -> tuple[set[str], list[str]]:
    """Return ids and groups of a new split: whole groups until a tenth is reached, at most a third of the groups."""
    wanted = min(MAX_UTTERANCES, max(1, round(FRACTION * len(train))))
    if rule == "utterance":
        return set(_hash_order([u.id for u in train], seed)[:wanted]), []
    groups = _hash_order(_groups(train, rule), seed)
    limit = len(groups) // 3 if len(groups) >= 3 else len(groups) - 1
    chosen: set[str] = set()
    taken: list[str] = []
    for group in groups[:limit]:
        if len(chosen) >= wanted:
            break
        chosen |= {u.id for u in train if u.group(rule) == group}
        taken.append(group)
    return chosen, taken


def _hash_order(names: Iterable[str], seed: int) -> list[str]:
    """Sort names pseudo-randomly, each independently of the others."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _apply_caps(
    task: Task, source: str, utterances: list[Utterance], caps: Mapping[Split, int], notes: list[str]
) -> list[Utterance]:
    """Drop utterances beyond a source's caps; those that stay are drawn by hash and keep their order."""
    for split, cap in caps.items():
        members = [u.id for u in utterances if u.split == split]
        if len(members) > cap:
            kept = set(_hash_order(members, task.split_seed)[:cap])
            utterances = [u for u in utterances if u.split != split or u.id in kept]
            notes.append(f"{source}: {cap} of {len(members)} utterances of {split} are used (caps)")
    return utterances


def _check_held_out(task: Task, utterances: list[Utterance]) -> None:
    """Check that official splits follow a held-out rule that the task names."""
    if task.held_out in ("auto", "utterance"):
        return
    shared = shared_groups(utterances, task.held_out, "train", "test")
    if shared:
        raise UserError(
            f"task {task.name}: held_out is {task.held_out}, but train and test share {_abbreviated(shared)}; "
            "correct the split column, or set held_out: auto to accept and report it"
        )


def shared_groups(utterances: list[Utterance], name: str, one: str, other: str) -> list[str]:
    """Return the values of a group that two splits share, as SOURCE/VALUE: equal names in two sources are different."""

    def values(split: str) -> set[str]:
        members = (u for u in utterances if u.split == split and u.group(name) is not None)
        return {f"{u.dataset}/{u.group(name)}" for u in members}

    return sorted(values(one) & values(other))


def _abbreviated(names: list[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def find_leaks(utterances: list[Utterance], digests: dict[str, str]) -> list[dict[str, object]]:
    """Find the same audio or the same speaker in two splits, for the data report.

    Args:
        utterances: The prepared utterances.
        digests: Digest of each utterance's audio by id.
    """
    leaks: list[dict[str, object]] = []
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        first = {digests[u.id]: u.id for u in utterances if u.split == one and u.id in digests}
        pairs = [[first[digests[u.id]], u.id] for u in utterances if u.split == other and digests.get(u.id) in first]
        if pairs:
            leaks.append({"what": "same audio", "splits": [one, other], "count": len(pairs), "found": pairs[:100]})
        speakers = shared_groups(utterances, "speaker", one, other)
        if speakers:
            leaks.append(
                {"what": "same speaker", "splits": [one, other], "count": len(speakers), "found": speakers[:100]}
            )
    return leaks


def describe_leaks(leaks: list[dict[str, object]]) -> list[str]:
    """Return a note for each leak, with the first five items."""
    notes = []
    for leak in leaks:
        splits, items = leak["splits"], leak["found"]
        assert isinstance(splits, list) and isinstance(items, list)
        names = [" = ".join(item) if isinstance(item, list) else item for item in items]
        notes.append(f"leak: {leak['what']} in {splits[0]} and {splits[1]} ({leak['count']}): {_abbreviated(names, 5)}")
    return notes


def repeat_by_weight(rows: list[int], weight: float, epoch: int, seed: int) -> list[int]:
    """Repeat rows by a weight: 2.5 means each row twice and half of them, drawn anew each epoch, a third time.

    The draws of successive epochs deal out one random permutation after another, so that every row is drawn once
    before any is drawn again.

    Args:
        rows: The rows of one source.
        weight: The weight of the source.
        epoch: The epoch, from 0.
        seed: The seed of the permutations.
    """
    whole, count = int(weight), len(rows)
    share = (weight - whole) * count
    places = range(round(epoch * share), round((epoch + 1) * share))
    deals = {deal: np.random.default_rng([seed, deal]).permutation(count) for deal in {p // count for p in places}}
    drawn = Counter(rows[deals[place // count][place % count]] for place in places)
    return [row for row in rows for _ in range(whole + drawn[row])]
