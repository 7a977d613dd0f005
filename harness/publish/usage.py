"""Write the code with which a reader uses a published form; a test runs each in the reader's own package."""

from jinja2 import Environment

from harness.data.labels import is_multilingual
from harness.model.base import Base
from harness.model_size.parameters import POSITIONS_PER_SECOND
from harness.publish.alignment import alignment_heads, openai_heads
from harness.publish.best_run import BestRun
from harness.spec.trial import BaseWeights

QUANTIZATION: dict[BaseWeights, str] = {
    "int8": 'load_in_8bit=True, llm_int8_skip_modules=["proj_out"]',
    "nf4": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["proj_out"]',
    "nf4_double": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    'llm_int8_skip_modules=["proj_out"]',
}


def usage(environment: Environment, best_run: BestRun, form: str, base: Base, official: bool) -> str:
    """Return the code as Markdown; FOLDER, BASE and clip.wav stand for the reader's own.

    Args:
        environment: Has the template.
        best_run: The published run.
        form: One of FORMS.
        base: The base model.
        official: Whether openai-whisper and faster-whisper can read the model.
    """
    config, generation = best_run.record.config, base.model.generation_config
    multilingual = is_multilingual(generation)
    language = (best_run.language or "CODE") if multilingual and config.forced_language else None
    task = best_run.speech_task if multilingual else None
    window = config.encoder_window_seconds
    heads = alignment_heads(generation, base.model.config)
    named = _arguments(language=language, task=task)
    return environment.get_template("use.md.j2").render(
        form=form,
        weights=config.base_weights,
        quantization=QUANTIZATION.get(config.base_weights),
        window=window,
        positions=window and round(window * POSITIONS_PER_SECOND),
        rate=base.processor.feature_extractor.sampling_rate,
        named=named,
        pipeline_options=', "language": "CODE"' if language == "CODE" else "",
        alignment_heads=heads and openai_heads(heads, base.model.config),
        official=official,
        prompt=["<|startoftranscript|>"]
        + ([f"<|{language or 'CODE'}|>", f"<|{task}|>"] if multilingual else [])
        + ["<|notimestamps|>"],
    )


def _arguments(**values: str | None) -> str:
    return "".join(f'{name}="{value}", ' for name, value in values.items() if value is not None)
