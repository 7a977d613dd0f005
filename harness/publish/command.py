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
from harness.publish.best_run import BestRun, find_best_run, tuned
from harness.publish.card import card
from harness.publish.openai import write_openai
from harness.records.files import write_text
from harness.spec.messages import Open
from harness.spec.result import Transcript
from harness.training.context import TrainerContext
from harness.training.orders import open_context


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
    best_run = find_best_run(options.results, options.study, options.trial, options.baseline, options.refit)
    wanted = chosen_forms(options.to, best_run)
    if options.push_to_hub and len(wanted) != 1:
        raise UserError(f"--push-to-hub uploads one form: name it with --to, one of {', '.join(wanted)}")
    target = options.output or best_run.study.path / "published" / best_run.record.name.replace(" ", "_")
    print(f"{best_run.record.name} of study {options.study}, {chosen_by(best_run)}", flush=True)
    context = opened(best_run, options)
    checked = written(best_run, context, wanted, target, options.sample)
    for result in checked:
        folder = target / result.form
        write_text(folder / "README.md", card(best_run, result.form, result.shown))
        print(f"  {folder}")
    if not all(result.same for result in checked):
        print("a form decodes differently from its source, see above: do not publish it unread")
        return 1
    if options.push_to_hub:
        print(f"uploaded: {hub.push(target / wanted[0], options.push_to_hub, private=not options.public)}")
    return 0


def chosen_by(best_run: BestRun) -> str:
    """What the run was chosen by."""
    scores = best_run.record.scores
    return f"validation WER {scores.wer:.1%}" if scores else "trained on validation too, which no longer tells its WER"


def chosen_forms(given: Sequence[str] | None, best_run: BestRun) -> list[str]:
    """The forms asked for, or all that the method has."""
    method = best_run.record.config.method
    if method == "lora":
        return list(given or FORMS)
    if given and "adapter" in given:
        raise UserError(
            f"{best_run.record.name} was trained by method {method}: there is no adapter, only a whole model"
        )
    return list(given or FORMS[1:])


def opened(best_run: BestRun, options: Namespace) -> TrainerContext:
    """The study's model and speech, if the speech is still the one that the winner was judged on."""
    task = catalog.task(options.task or best_run.task)
    cache = str(options.cache_dir or CACHE_DIR)
    context = open_context(Open(model=best_run.model, task=task, cache_dir=cache, seed=best_run.record.seed))
    held = context.speech.report["splits"]["validation"]["hash"]
    if held != best_run.record.data["validation"]:
        raise UserError("the validation speech is not the one that the study had; name the right one with --task")
    return context


def written(
    best_run: BestRun, context: TrainerContext, wanted: Sequence[str], target: Path, sample: int
) -> list[Checked]:
    """Write the forms and check each."""
    config, judged = best_run.record.config, context.with_base_weights(best_run.record.config.base_weights)
    rows = spread(context.speech.rows("validation"), sample)
    judge = judge_of(context, rows, best_run.record.portion.with_validation)
    with tuned(judged.base, best_run) as model:
        source = decoders.by_transformers(judged, model, rows)
    found = []
    if "adapter" in wanted:
        how = write_adapter(judged.base, config, best_run.weights, target / "adapter")
        texts = decoders.by_adapter(judged, config, target / "adapter", rows)
        found.append(judge("adapter", how, texts, source))
    if set(wanted) - {"adapter"}:
        found += written_whole(
            best_run, context, wanted, target, rows, lambda form, how, t: judge(form, how, t, source)
        )
    return found


def written_whole(
    best_run: BestRun,
    context: TrainerContext,
    wanted: Sequence[str],
    target: Path,
    rows: Sequence[int],
    judge: Callable[[str, str, list[str]], Checked],
) -> list[Checked]:
    """The forms that are made of the merged model, in fp32 on the base as published."""
    quantised = best_run.record.config.base_weights
    how = "fp32" if quantised == "full" else f"fp32 base, where training had {quantised}"
    merged, checkpoint = target / "merged", target / "openai" / "model.pt"
    plain = replace(best_run, record=_on_full_base(best_run))
    with tuned(context.base, plain, shape=False):
        forms.write_merged(context.base.model, context.base, best_run, merged)
        if "openai" in wanted:
            write_openai(context.base.model, checkpoint)
    found = []
    if "merged" in wanted:
        found.append(judge("merged", how, decoders.by_merged(context, merged, rows)))
    if "openai" in wanted:
        found.append(judge("openai", how, decoders.by_openai(context, checkpoint, rows)))
    if "ctranslate2" in wanted:
        forms.write_ctranslate2(merged, target / "ctranslate2")
        found.append(judge("ctranslate2", how, decoders.by_ctranslate2(context, target / "ctranslate2", rows)))
    if "merged" not in wanted:
        shutil.rmtree(merged)
    return found


def _on_full_base(best_run: BestRun) -> Any:
    config = best_run.record.config.model_copy(update={"base_weights": "full"})
    return best_run.record.model_copy(update={"config": config})


def spread(rows: Sequence[int], count: int) -> list[int]:
    """`count` rows, evenly spread."""
    return list(rows[:: max(1, len(rows) // max(1, count))][: max(1, count)])


def judge_of(
    context: TrainerContext, rows: Sequence[int], seen: bool = False
) -> Callable[[str, str, list[str], list[str]], Checked]:
    """Score a form's texts and its source's by the task's normaliser."""
    languages = context.speech.report["languages"]
    language = languages[0] if len(languages) == 1 else "mul"

    def wer(texts: list[str]) -> float:
        heard = [
            Transcript(id=u.id, reference=u.text, hypothesis=text)
            for u, text in zip((context.speech.utterances[row] for row in rows), texts, strict=True)
        ]
        return score(heard, language, context.task.normalizer).wer

    def judge(form: str, how: str, texts: list[str], source: list[str]) -> Checked:
        equal = sum(one == other for one, other in zip(texts, source, strict=True))
        checked = Checked(form, how, len(rows), equal, wer(texts), wer(source), seen)
        print(f"  {checked.shown}", flush=True)
        return checked

    return judge
