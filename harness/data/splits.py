"""Which utterance is for training, for choosing, and for the final comparison; and how often it is seen."""

import hashlib
from collections.abc import Iterable, Mapping

from harness.errors import UserError, nearest
from harness.spec.task import SPLITS, Split, Task, Utterance

FRACTION = 0.1  # of a source's utterances, for a split that the source does not give
AT_MOST = 500  # utterances in such a split, of one source


def assign(task: Task, utterances: list[Utterance]) -> tuple[list[Utterance], list[str], list[dict[str, object]]]:
    """Give every utterance without a split one, source by source, and cut from train what a source does not give.

    Official splits stay as they are. What is cut shares no speaker (or other group, see Task.held_out) with train
    where groups allow it; validation is cut in the way that test differs from train: by utterance where those two
    share their groups. The order in which groups are drawn is by a hash of seed and name, so a recording that is
    added later moves no other.

    Returns:
        The utterances; notes for people; and what was cut, by which rule, seed and groups, for the data report.

    Raises:
        UserError: if a split stays empty, or a held-out rule cannot be kept.
    """
    _check_rule(task, utterances)
    placed: list[Utterance] = []
    notes: list[str] = []
    cuts: list[dict[str, object]] = []
    for name, source in zip(task.source_names(), task.sources, strict=True):
        own = [u for u in utterances if u.dataset == name]
        whole = source.split is not None
        done = own if whole else _complete(task, name, own, notes, cuts)
        placed += _capped(task, name, done, source.caps, notes)
    for split in SPLITS:
        if not any(u.split == split for u in placed):
            raise UserError(
                f"task {task.name}: no utterances for {split}: {len(utterances)} in all, and it could not be cut"
            )
    return placed, notes, cuts


def _complete(
    task: Task, source: str, own: list[Utterance], notes: list[str], cuts: list[dict[str, object]]
) -> list[Utterance]:
    placed = [u if u.split else u.model_copy(update={"split": "train"}) for u in own]
    for split in ("test", "validation"):
        train = [u for u in placed if u.split == "train"]
        if len(train) < 2 or any(u.split == split for u in placed):
            continue
        rule = _rule(task, train)
        if rule != "utterance" and task.held_out == "auto" and split == "validation":
            test = [u for u in placed if u.split == "test"]
            rule = "utterance" if _groups(train, rule) & _groups(test, rule) else rule
        chosen, groups = _cut(train, rule, task.split_seed)
        if not chosen:
            continue
        placed = [u.model_copy(update={"split": split}) if u.id in chosen else u for u in placed]
        notes.append(f"{split} was cut from {source}'s train by {rule} ({len(chosen)} utterances)")
        cuts.append({"split": split, "source": source, "by": rule, "seed": task.split_seed, "groups": groups})
    return placed


def _rule(task: Task, train: list[Utterance]) -> str:
    """What a cut is made by: a group's name or "utterance"; `auto` is speaker where at least three are named."""
    if task.held_out == "auto":
        named = all(u.speaker for u in train) and len(_groups(train, "speaker")) >= 3
        return "speaker" if named else "utterance"
    if task.held_out == "utterance":
        return "utterance"
    if any(u.group(task.held_out) is None for u in train):
        there = {"speaker", "condition", "dataset", *(name for u in train for name in u.groups)}
        raise UserError(
            f"task {task.name}: held_out is {task.held_out!r}, but {train[0].dataset} has utterances without it; "
            f"{nearest(task.held_out, there | {'auto', 'utterance'})}"
        )
    return task.held_out


def _groups(utterances: Iterable[Utterance], name: str) -> set[str]:
    return {value for u in utterances if (value := u.group(name)) is not None}


def _cut(train: list[Utterance], rule: str, seed: int) -> tuple[set[str], list[str]]:
    """Ids for a split, and the groups they are all of; whole groups until a tenth is reached, at most a third."""
    wanted = min(AT_MOST, max(1, round(FRACTION * len(train))))
    if rule == "utterance":
        return set(_drawn([u.id for u in train], seed)[:wanted]), []
    groups = _drawn(_groups(train, rule), seed)
    most = len(groups) // 3 if len(groups) >= 3 else len(groups) - 1
    chosen: set[str] = set()
    taken: list[str] = []
    for group in groups[:most]:
        if len(chosen) >= wanted:
            break
        chosen |= {u.id for u in train if u.group(rule) == group}
        taken.append(group)
    return chosen, taken


def _drawn(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _capped(
    task: Task, source: str, utterances: list[Utterance], caps: Mapping[Split, int], notes: list[str]
) -> list[Utterance]:
    """Drop what is over a source's caps; which stay is drawn by hash, their order is kept."""
    for split, most in caps.items():
        members = [u.id for u in utterances if u.split == split]
        if len(members) > most:
            kept = set(_drawn(members, task.split_seed)[:most])
            utterances = [u for u in utterances if u.split != split or u.id in kept]
            notes.append(f"{source}: {most} of {len(members)} utterances of {split} are used (caps)")
    return utterances


def _check_rule(task: Task, utterances: list[Utterance]) -> None:
    """A held-out rule that is named must hold for official splits too."""
    if task.held_out in ("auto", "utterance"):
        return
    shared = shared_groups(utterances, task.held_out, "train", "test")
    if shared:
        raise UserError(
            f"task {task.name}: held_out is {task.held_out}, but train and test share {_some(shared)}; "
            "mend the split column, or set held_out: auto to accept and report it"
        )


def shared_groups(utterances: list[Utterance], name: str, one: str, other: str) -> list[str]:
    """Values of a group that two splits share, as SOURCE/VALUE: a speaker 1 of two sources is two people."""

    def values(split: str) -> set[str]:
        members = (u for u in utterances if u.split == split and u.group(name) is not None)
        return {f"{u.dataset}/{u.group(name)}" for u in members}

    return sorted(values(one) & values(other))


def _some(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def leaks(utterances: list[Utterance], digests: dict[str, str]) -> list[dict[str, object]]:
    """What test or validation shares with train, and test with validation: the same audio, or the same speaker."""
    found: list[dict[str, object]] = []
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        first = {digests[u.id]: u.id for u in utterances if u.split == one and u.id in digests}
        pairs = [[first[digests[u.id]], u.id] for u in utterances if u.split == other and digests.get(u.id) in first]
        if pairs:
            found.append({"what": "same audio", "splits": [one, other], "count": len(pairs), "found": pairs[:100]})
        speakers = shared_groups(utterances, "speaker", one, other)
        if speakers:
            found.append(
                {"what": "same speaker", "splits": [one, other], "count": len(speakers), "found": speakers[:100]}
            )
    return found


def leak_notes(found: list[dict[str, object]]) -> list[str]:
    """The leaks in sentences that name the first of them."""
    notes = []
    for leak in found:
        splits, items = leak["splits"], leak["found"]
        assert isinstance(splits, list) and isinstance(items, list)
        names = [" = ".join(item) if isinstance(item, list) else item for item in items]
        notes.append(f"leak: {leak['what']} in {splits[0]} and {splits[1]} ({leak['count']}): {_some(names, 5)}")
    return notes


def weighted(rows: list[int], weight: float, seed: int, names: list[str]) -> list[int]:
    """Rows repeated by a weight: 2.5 is each twice and a drawn half of them a third time."""
    whole, part = int(weight), weight - int(weight)
    extra = set(_drawn([names[row] for row in rows], seed)[: round(part * len(rows))])
    return [row for row in rows for _ in range(whole + (names[row] in extra))]
