"""What python -m harness.publish does: write each form, have it decode a sample again, and say whether it is equal."""

import shutil
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from harness import catalog
from harness.errors import UserError
from harness.evaluation.metrics import score
from harness.model.plain_lora import write_adapter
from harness.plan import CACHE_DIR
from harness.publish import FORMS, decoders, forms, hub
from harness.publish.best_run import Winner, find_winner, tuned
from harness.publish.card import card
from harness.publish.openai import write_openai
from harness.records.files import write_text
from harness.spec.messages import Open
from harness.spec.result import Transcript
from harness.training.context import Bench
from harness.training.orders import open_bench


@dataclass(frozen=True)
class Checked:
    """What a form decoded, against the model that it was made of."""

    form: str
    how: str
    clips: int
    equal: int
    wer: float
    source_wer: float
    seen: bool = False  # the clips were trained on

    @property
    def same(self) -> bool:
        """Whether the WER is the source's."""
        return self.wer == self.source_wer

    @property
    def shown(self) -> str:
        """One sentence."""
        verdict = "equal" if self.same else "NOT EQUAL"
        return (
            f"{self.form} ({self.how}): WER {self.wer:.2%} on {self.clips} validation clips"
            f"{' that it was trained on' if self.seen else ''}, source "
            f"{self.source_wer:.2%}: {verdict}; {self.equal} of {self.clips} transcripts the same"
        )


def publish(options: Namespace) -> int:
    """Write, check, describe, and upload where asked; 1 where a form does not decode as its source does."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    winner = find_winner(options.results, options.study, options.trial, options.baseline, options.refit)
    wanted = chosen_forms(options.to, winner)
    if options.push_to_hub and len(wanted) != 1:
        raise UserError(f"--push-to-hub uploads one form: name it with --to, one of {', '.join(wanted)}")
    target = options.output or winner.study.path / "published" / winner.record.name.replace(" ", "_")
    print(f"{winner.record.name} of study {options.study}, {chosen_by(winner)}", flush=True)
    bench = opened(winner, options)
    checked = written(winner, bench, wanted, target, options.sample)
    for result in checked:
        folder = target / result.form
        write_text(folder / "README.md", card(winner, result.form, result.shown))
        print(f"  {folder}")
    if not all(result.same for result in checked):
        print("a form decodes differently from its source, see above: do not publish it unread")
        return 1
    if options.push_to_hub:
        print(f"uploaded: {hub.push(target / wanted[0], options.push_to_hub, private=not options.public)}")
    return 0


def chosen_by(winner: Winner) -> str:
    """What the run was chosen by."""
    scores = winner.record.scores
    return f"validation WER {scores.wer:.1%}" if scores else "trained on validation too, which no longer tells its WER"


def chosen_forms(given: Sequence[str] | None, winner: Winner) -> list[str]:
    """The forms asked for, or all that the method has."""
    method = winner.record.config.method
    if method == "lora":
        return list(given or FORMS)
    if given and "adapter" in given:
        raise UserError(f"{winner.record.name} was trained by method {method}: there is no adapter, only a whole model")
    return list(given or FORMS[1:])


def opened(winner: Winner, options: Namespace) -> Bench:
    """The study's model and speech, if the speech is still the one that the winner was judged on."""
    task = catalog.task(options.task or winner.task)
    cache = str(options.cache_dir or CACHE_DIR)
    bench = open_bench(Open(model=winner.model, task=task, cache_dir=cache, seed=winner.record.seed))
    held = bench.speech.report["splits"]["validation"]["hash"]
    if held != winner.record.data["validation"]:
        raise UserError("the validation speech is not the one that the study had; name the right one with --task")
    return bench


def written(winner: Winner, bench: Bench, wanted: Sequence[str], target: Path, sample: int) -> list[Checked]:
    """Write the forms and check each."""
    config, judged = winner.record.config, bench.on(winner.record.config.base_weights)
    rows = spread(bench.speech.rows("validation"), sample)
    judge = judge_of(bench, rows, winner.record.portion.with_validation)
    with tuned(judged.base, winner) as model:
        source = decoders.by_transformers(judged, model, rows)
    found = []
    if "adapter" in wanted:
        how = write_adapter(judged.base, config, winner.weights, target / "adapter")
        texts = decoders.by_adapter(judged, config, target / "adapter", rows)
        found.append(judge("adapter", how, texts, source))
    if set(wanted) - {"adapter"}:
        found += written_whole(winner, bench, wanted, target, rows, lambda form, how, t: judge(form, how, t, source))
    return found


def written_whole(
    winner: Winner,
    bench: Bench,
    wanted: Sequence[str],
    target: Path,
    rows: Sequence[int],
    judge: Callable[[str, str, list[str]], Checked],
) -> list[Checked]:
    """The forms that are made of the merged model, in fp32 on the base as published."""
    quantised = winner.record.config.base_weights
    how = "fp32" if quantised == "full" else f"fp32 base, where training had {quantised}"
    merged, checkpoint = target / "merged", target / "openai" / "model.pt"
    plain = replace(winner, record=_on_full_base(winner))
    with tuned(bench.base, plain, shape=False):
        forms.write_merged(bench.base.model, bench.base, winner, merged)
        if "openai" in wanted:
            write_openai(bench.base.model, checkpoint)
    found = []
    if "merged" in wanted:
        found.append(judge("merged", how, decoders.by_merged(bench, merged, rows)))
    if "openai" in wanted:
        found.append(judge("openai", how, decoders.by_openai(bench, checkpoint, rows)))
    if "ctranslate2" in wanted:
        forms.write_ctranslate2(merged, target / "ctranslate2")
        found.append(judge("ctranslate2", how, decoders.by_ctranslate2(bench, target / "ctranslate2", rows)))
    if "merged" not in wanted:
        shutil.rmtree(merged)
    return found


def _on_full_base(winner: Winner) -> Any:
    config = winner.record.config.model_copy(update={"base_weights": "full"})
    return winner.record.model_copy(update={"config": config})


def spread(rows: Sequence[int], count: int) -> list[int]:
    """`count` rows, evenly spread."""
    return list(rows[:: max(1, len(rows) // max(1, count))][: max(1, count)])


def judge_of(
    bench: Bench, rows: Sequence[int], seen: bool = False
) -> Callable[[str, str, list[str], list[str]], Checked]:
    """Score a form's texts and its source's by the task's normaliser."""
    languages = bench.speech.report["languages"]
    language = languages[0] if len(languages) == 1 else "mul"

    def wer(texts: list[str]) -> float:
        heard = [
            Transcript(id=u.id, reference=u.text, hypothesis=text)
            for u, text in zip((bench.speech.utterances[row] for row in rows), texts, strict=True)
        ]
        return score(heard, language, bench.task.normalizer).wer

    def judge(form: str, how: str, texts: list[str], source: list[str]) -> Checked:
        equal = sum(one == other for one, other in zip(texts, source, strict=True))
        checked = Checked(form, how, len(rows), equal, wer(texts), wer(source), seen)
        print(f"  {checked.shown}", flush=True)
        return checked

    return judge
