"""Carry out python -m harness.publish: write each form, and check it by decoding a sample with it."""

import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.utils import logging as transformers_logging

from harness import catalog
from harness.errors import UserError
from harness.evaluation.metrics import score
from harness.model.plain_lora import write_adapter
from harness.plan import CACHE_DIR
from harness.publish import FORMS, decoders, forms, hub
from harness.publish.best_run import BestRun, find_best_run, load_best_run
from harness.publish.card import model_card
from harness.publish.openai import write_openai
from harness.records.files import write_text
from harness.spec.messages import Open
from harness.spec.result import Record, Transcript
from harness.training.context import TrainerContext
from harness.training.orders import open_context


@dataclass(frozen=True)
class FormCheck:
    """Comparison of a form's transcripts with those of the model that it was written from.

    Attributes:
        form: One of FORMS.
        conversion: How it was written, such as "fp32".
        clips: Number of decoded validation clips.
        equal: Number of equal transcripts.
        wer: WER of the form.
        source_wer: WER of the source.
        trained_on: Whether the clips were trained on.
    """

    form: str
    conversion: str
    clips: int
    equal: int
    wer: float
    source_wer: float
    trained_on: bool = False

    @property
    def passed(self) -> bool:
        """Whether the form has the WER of its source."""
        return self.wer == self.source_wer

    @property
    def summary(self) -> str:
        """The result as a sentence without its full stop."""
        verdict = "equal" if self.passed else "NOT EQUAL"
        return (
            f"{self.form} ({self.conversion}): WER {self.wer:.2%} on {self.clips} validation clips"
            f"{' that it was trained on' if self.trained_on else ''}, source "
            f"{self.source_wer:.2%}: {verdict}; {self.equal} of {self.clips} transcripts the same"
        )


@dataclass(frozen=True)
class FormChecker:
    """Check forms against the transcripts of their source.

    Attributes:
        context: Model and data.
        rows: The validation rows that are decoded.
        source: Transcript of each row by the source.
        trained_on: Whether the source was trained on them.
    """

    context: TrainerContext
    rows: Sequence[int]
    source: list[str]
    trained_on: bool

    def check(self, form: str, conversion: str, texts: list[str]) -> FormCheck:
        """Compare a form's transcripts of `rows` with the source's, and print the result."""
        equal = sum(text == other for text, other in zip(texts, self.source, strict=True))
        wer, source_wer = self._wer(texts), self._wer(self.source)
        check = FormCheck(form, conversion, len(self.rows), equal, wer, source_wer, self.trained_on)
        print(f"  {check.summary}", flush=True)
        return check

    def _wer(self, texts: list[str]) -> float:
        """Return the WER, a fraction, after the task's normalizer."""
        speech = self.context.speech
        languages = speech.report["languages"]
        language = languages[0] if len(languages) == 1 else "mul"
        transcripts = [
            Transcript(id=u.id, reference=u.text, hypothesis=text)
            for u, text in zip((speech.utterances[row] for row in self.rows), texts, strict=True)
        ]
        return score(transcripts, language, self.context.task.normalizer).wer


def publish(options: Namespace) -> int:
    """Write, check and describe the forms, and upload one if asked; return 1 if a form decodes differently."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    best_run = find_best_run(options.results, options.study, options.trial, options.baseline, options.refit)
    wanted = chosen_forms(options.to, best_run)
    if options.push_to_hub and len(wanted) != 1:
        raise UserError(f"--push-to-hub uploads one form: name it with --to, one of {', '.join(wanted)}")
    target = options.output or best_run.study.path / "published" / best_run.record.name.replace(" ", "_")
    print(f"{best_run.record.name} of study {options.study}, {selection_note(best_run)}", flush=True)
    context = open_study_context(best_run, options)
    checks = write_forms(best_run, context, wanted, target, options.sample)
    for check in checks:
        folder = target / check.form
        write_text(folder / "README.md", model_card(best_run, check.form, check.summary))
        print(f"  {folder}")
    if not all(check.passed for check in checks):
        print("a form decodes differently from its source, see above: look at its transcripts before you publish it")
        return 1
    if options.push_to_hub:
        print(f"uploaded: {hub.push(target / wanted[0], options.push_to_hub, private=not options.public)}")
    return 0


def selection_note(best_run: BestRun) -> str:
    """Return by which WER the run was selected."""
    scores = best_run.record.scores
    return f"validation WER {scores.wer:.1%}" if scores else "trained on validation too, which no longer tells its WER"


def chosen_forms(given: Sequence[str] | None, best_run: BestRun) -> list[str]:
    """Return the forms asked for, by default all that the run's method has."""
    method = best_run.record.config.method
    if method == "lora":
        return list(given or FORMS)
    if given and "adapter" in given:
        raise UserError(
            f"{best_run.record.name} was trained by method {method}: there is no adapter, only a whole model"
        )
    return list(given or FORMS[1:])


def open_study_context(best_run: BestRun, options: Namespace) -> TrainerContext:
    """Load the study's model and data.

    Raises:
        UserError: The validation split is not the one that the run was evaluated on.
    """
    task = catalog.task(options.task or best_run.task)
    cache = str(options.cache_dir or CACHE_DIR)
    context = open_context(Open(model=best_run.model, task=task, cache_dir=cache, seed=best_run.record.seed))
    if context.speech.report["splits"]["validation"]["hash"] != best_run.record.data["validation"]:
        raise UserError("the validation split differs from the study's; name the task of the study with --task")
    return context


def write_forms(
    best_run: BestRun, context: TrainerContext, wanted: Sequence[str], target: Path, sample: int
) -> list[FormCheck]:
    """Write the forms into `target` and check each on `sample` validation clips."""
    config = best_run.record.config
    trained_context = context.with_base_weights(config.base_weights)
    rows = evenly_spaced(context.speech.rows("validation"), sample)
    with load_best_run(trained_context.base, best_run) as model:
        source = decoders.decode_with_transformers(trained_context, model, rows)
    checker = FormChecker(context, rows, source, best_run.record.portion.with_validation)
    checks = []
    if "adapter" in wanted:
        conversion = write_adapter(trained_context.base, config, best_run.weights, target / "adapter")
        texts = decoders.decode_with_adapter(trained_context, config, target / "adapter", rows)
        checks.append(checker.check("adapter", conversion, texts))
    if set(wanted) - {"adapter"}:
        checks += write_merged_forms(best_run, context, wanted, target, checker)
    return checks


def write_merged_forms(
    best_run: BestRun, context: TrainerContext, wanted: Sequence[str], target: Path, checker: FormChecker
) -> list[FormCheck]:
    """Write and check the forms that contain the merged model, in fp32 on the unquantised base."""
    weights, rows = best_run.record.config.base_weights, checker.rows
    conversion = "fp32" if weights == "full" else f"fp32 base, where training had {weights}"
    merged, checkpoint = target / "merged", target / "openai" / "model.pt"
    unquantised = replace(best_run, record=_with_full_base(best_run.record))
    with load_best_run(context.base, unquantised, trial_settings=False):
        forms.write_merged(context.base.model, context.base, best_run, merged)
        if "openai" in wanted:
            write_openai(context.base.model, checkpoint)
    checks = []
    if "merged" in wanted:
        checks.append(checker.check("merged", conversion, decoders.decode_with_merged(context, merged, rows)))
    if "openai" in wanted:
        checks.append(checker.check("openai", conversion, decoders.decode_with_openai(context, checkpoint, rows)))
    if "ctranslate2" in wanted:
        folder = target / "ctranslate2"
        forms.write_ctranslate2(merged, folder)
        checks.append(checker.check("ctranslate2", conversion, decoders.decode_with_ctranslate2(context, folder, rows)))
    if "merged" not in wanted:
        shutil.rmtree(merged)
    return checks


def _with_full_base(record: Record) -> Record:
    config = record.config.model_copy(update={"base_weights": "full"})
    return record.model_copy(update={"config": config})


def evenly_spaced(rows: Sequence[int], count: int) -> list[int]:
    """Return `count` of the rows, evenly spaced; all if there are fewer."""
    return list(rows[:: max(1, len(rows) // max(1, count))][: max(1, count)])
