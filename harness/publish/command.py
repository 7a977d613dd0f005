"""Carry out python -m harness.publish: write each form, and check it by decoding a sample with it."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import logging as transformers_logging

from harness import catalog
from harness.data.sampling import spread
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
from harness.spec.result import Transcript
from harness.spec.trial import LORA_FIELDS, TrialConfig
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
    refusal = forms.openai_refusal(context.base, best_run)
    wanted = readable_forms(options.to, wanted, refusal)
    checks = write_forms(best_run, context, wanted, target, options.sample)
    for check in checks:
        folder = target / check.form
        write_text(folder / "README.md", model_card(best_run, check.form, check.summary, context.base, refusal is None))
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


def readable_forms(given: Sequence[str] | None, wanted: Sequence[str], openai_refusal: str | None) -> list[str]:
    """Return the forms without openai if its program cannot read the model.

    Raises:
        UserError: It was asked for.
    """
    if openai_refusal is None or "openai" not in wanted:
        return list(wanted)
    if given:
        raise UserError(f"no form openai for this model: {openai_refusal}")
    print(f"  openai: left out, {openai_refusal}")
    return [form for form in wanted if form != "openai"]


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
    rows = spread(context.speech.rows("validation"), sample)
    with load_best_run(trained_context.base, best_run) as model:
        source = decoders.decode_source(trained_context, config, model, rows)
    clips = decoders.make_sample(context, config, rows)
    checker = FormChecker(context, rows, source, best_run.record.portion.with_validation)
    checks = []
    if "adapter" in wanted:
        conversion = write_adapter(trained_context.base, config, best_run.weights, target / "adapter")
        texts = decoders.decode_with_adapter(best_run.model, config, target / "adapter", clips, context.base.device)
        checks.append(checker.check("adapter", conversion, texts))
    if set(wanted) - {"adapter"}:
        checks += write_merged_forms(best_run, context, wanted, target, checker, clips)
    return checks


def write_merged_forms(
    best_run: BestRun,
    context: TrainerContext,
    wanted: Sequence[str],
    target: Path,
    checker: FormChecker,
    clips: decoders.Sample,
) -> list[FormCheck]:
    """Write and check the forms that contain the merged model, in fp32 on the unquantised base."""
    weights, device = best_run.record.config.base_weights, context.base.device
    conversion = "fp32" if weights == "full" else f"fp32 base, where training had {weights}"
    folder, checkpoint, checks = target / "ctranslate2", target / "openai" / "model.pt", []
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target) as temporary:
        merged = target / "merged" if "merged" in wanted else Path(temporary) / "merged"
        with load_best_run(context.base, _as_published(best_run)):
            forms.write_merged(context.base.model, context.base, best_run, merged)
            if "openai" in wanted:
                write_openai(context.base.model, checkpoint)
        if "merged" in wanted:
            checks.append(checker.check("merged", conversion, decoders.decode_with_merged(merged, clips, device)))
        if "openai" in wanted:
            checks.append(checker.check("openai", conversion, decoders.decode_with_openai(checkpoint, clips, device)))
        if "ctranslate2" in wanted:
            forms.write_ctranslate2(merged, folder)
            checks.append(checker.check("ctranslate2", conversion, decoders.decode_with_ctranslate2(folder, clips)))
    return checks


def _as_published(best_run: BestRun) -> BestRun:
    """Return the run on the unquantised base, with no setting but its window, in whole seconds as files hold it."""
    old = best_run.record.config
    window = old.encoder_window_seconds and float(math.ceil(old.encoder_window_seconds))
    own = {name: getattr(old, name) for name in LORA_FIELDS}
    config = TrialConfig(method=old.method, encoder_window_seconds=window, **own)
    return replace(best_run, record=best_run.record.model_copy(update={"config": config}))
