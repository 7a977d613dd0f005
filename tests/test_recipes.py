"""Every recipe against the document that it comes from: the expected values with their file and line there."""

import math
import re

import pytest

import run_sweep
from harness import catalog
from harness.model_size.parameters import count, dimensions
from harness.spec.budget import Budget
from harness.spec.published import Published
from harness.spec.recipe import Recipe

CADENZA = "000_9d6f5a4059ae17ba.txt"
SWEDISH = "001_9ba940f28dd07c94.txt"
QURAN = "002_e151a8042d4e7084.txt"
PEFT = "003_bc5b84d9acf032b6.txt"
BLOG = "004_a4f95d0a591e990f.txt"

# recipe, field of its configuration (or of the recipe itself), what the document says, the document, the line
SETTINGS = [
    ("cadenza_lora_r32", "r", 32, CADENZA, 30),
    ("cadenza_lora_r32", "lora_alpha", 64, CADENZA, 34),
    ("cadenza_lora_r32", "target_modules", ("q_proj", "v_proj", "fc1", "fc2"), CADENZA, 38),
    ("cadenza_lora_r32", "lora_dropout", 0.1, CADENZA, 42),
    ("cadenza_lora_r32", "bias", "lora_only", CADENZA, 46),
    ("cadenza_lora_r32", "per_device_train_batch_size", 4, CADENZA, 63),
    ("cadenza_lora_r32", "learning_rate", 1e-3, CADENZA, 64),
    ("cadenza_lora_r32", "warmup_steps", 50, CADENZA, 65),
    ("cadenza_lora_r32", "precision", "fp16", CADENZA, 66),
    ("cadenza_lora_r32", "model", "openai/whisper-small", CADENZA, 58),
    ("cadenza_lora_r16", "r", 16, CADENZA, 76),
    ("cadenza_lora_r16", "lora_alpha", 32, CADENZA, 76),
    ("cadenza_lora_r16", "target_modules", ("q_proj", "v_proj"), CADENZA, 76),
    ("cadenza_lora_r16", "lora_dropout", 0.05, CADENZA, 76),
    ("cadenza_lora_r16", "bias", "none", CADENZA, 76),
    ("cadenza_lora_r16", "per_device_train_batch_size", 4, CADENZA, 63),
    ("cadenza_lora_r16", "learning_rate", 1e-3, CADENZA, 64),
    ("swedish_improved", "model", "openai/whisper-small", SWEDISH, 13),
    ("swedish_improved", "per_device_train_batch_size", 16, SWEDISH, 73),
    ("swedish_improved", "gradient_accumulation_steps", 2, SWEDISH, 74),
    ("swedish_improved", "learning_rate", 1e-5, SWEDISH, 75),
    ("swedish_improved", "gradient_checkpointing", True, SWEDISH, 76),
    ("swedish_improved", "precision", "fp16", SWEDISH, 85),
    ("swedish_improved", "optim", "adamw_8bit", SWEDISH, 91),
    ("swedish_improved", "lr_scheduler_type", "linear", SWEDISH, 93),
    ("swedish_improved", "warmup_steps", 500, SWEDISH, 96),
    ("swedish_improved", "weight_decay", 0.0, SWEDISH, 97),
    ("swedish_improved", "dropout", 0.1, SWEDISH, 104),
    ("swedish_improved_decay", "weight_decay", 0.01, SWEDISH, 107),
    ("swedish_improved", "forced_language", True, SWEDISH, 116),
    ("swedish_improved_unforced", "forced_language", False, SWEDISH, 118),
    ("swedish_peft", "method", "lora", SWEDISH, 125),
    ("swedish_peft", "base_weights", "int8", SWEDISH, 141),
    ("swedish_augmented", "augmentation", "varied", SWEDISH, 164),
    ("quran_full", "model", "openai/whisper-small", QURAN, 11),
    ("quran_full", "learning_rate", 0.0005, QURAN, 78),
    ("quran_full", "weight_decay", 0.01, QURAN, 79),
    ("quran_full", "adam_epsilon", 1e-8, QURAN, 80),
    ("quran_full", "warmup_steps", 2, QURAN, 81),
    ("quran_full", "per_device_train_batch_size", 16, QURAN, 82),
    ("quran_full", "epochs", 10, QURAN, 84),
    ("quran_full", "gradient_accumulation_steps", 1, QURAN, 85),
    ("quran_full", "evaluate_every_epochs", 1, QURAN, 98),
    ("peft_int8_large_v2", "model", "openai/whisper-large-v2", PEFT, 29),
    ("peft_int8_large_v2", "base_weights", "int8", PEFT, 367),
    ("peft_int8_large_v2", "r", 32, PEFT, 395),
    ("peft_int8_large_v2", "lora_alpha", 64, PEFT, 395),
    ("peft_int8_large_v2", "target_modules", ("q_proj", "v_proj"), PEFT, 395),
    ("peft_int8_large_v2", "lora_dropout", 0.05, PEFT, 395),
    ("peft_int8_large_v2", "bias", "none", PEFT, 395),
    ("peft_int8_large_v2", "per_device_train_batch_size", 8, PEFT, 415),
    ("peft_int8_large_v2", "gradient_accumulation_steps", 1, PEFT, 416),
    ("peft_int8_large_v2", "learning_rate", 1e-3, PEFT, 417),
    ("peft_int8_large_v2", "warmup_steps", 50, PEFT, 418),
    ("peft_int8_large_v2", "epochs", 1, PEFT, 419),
    ("peft_int8_large_v2", "precision", "fp16", PEFT, 421),
    ("peft_int8_large_v2", "leading_space", False, PEFT, 245),
    ("peft_int8_large_v2_100", "steps", 100, PEFT, 425),
    ("swedish_blog_4000", "evaluate_every_steps", 500, BLOG, 30),
    ("swedish_blog_4000", "steps", 4000, BLOG, 32),
    ("swedish_tiny_lr_1e5", "model", "openai/whisper-tiny", BLOG, 62),
    ("swedish_tiny_lr_1e5", "steps", 1000, BLOG, 62),
    ("swedish_tiny_lr_1e5", "learning_rate", 1e-5, BLOG, 62),
    ("swedish_tiny_lr_1e6", "learning_rate", 1e-6, BLOG, 62),
    ("swedish_tiny_lr_1e7", "learning_rate", 1e-7, BLOG, 62),
]
# recipe, trainable parameters on its own base, the document, the line
TRAINABLE = [
    ("cadenza_lora_r16", 1_769_472, CADENZA, 84),
    ("peft_int8_large_v2", 15_728_640, PEFT, 402),
]
# recipe, effective batch size, the document, the lines that give it
EFFECTIVE = [
    ("cadenza_lora_r32", 4, CADENZA, "63"),
    ("swedish_improved", 32, SWEDISH, "73-74"),
    ("quran_full", 16, QURAN, "82, 85"),
    ("peft_int8_large_v2", 8, PEFT, "415-416"),
]
# task as the recipe names it, what of it is the document's, the document, the line
OURS = ("vanilla", "full_ft")  # from no document


@pytest.mark.parametrize("name, field, said, document, line", SETTINGS)
def test_a_recipe_is_what_its_document_says(name, field, said, document, line):
    recipe = catalog.recipe(name)[1]
    holder = recipe if field in Recipe.model_fields else recipe.config
    assert getattr(holder, field) == said, f"{document} line {line}"
    assert recipe.source.startswith(document)


def test_every_recipe_of_a_document_is_checked_here():
    checked = {name for name, *_ in SETTINGS}
    named = {name for name in catalog.names("baselines") if catalog.recipe(name)[1].source[:3].isdigit()}
    assert named - checked == {"swedish_tutorial"}, "which is the tutorial's, below"


def test_the_swedish_tutorial_is_the_tutorial_without_a_forced_language():
    tutorial, swedish = catalog.recipe("tutorial")[1], catalog.recipe("swedish_tutorial")[1]
    differ = {"gradient_checkpointing": True, "forced_language": False}
    assert swedish.config == tutorial.config.model_copy(update=differ), f"{SWEDISH} line 21"
    assert (swedish.steps, swedish.config.warmup_steps) == (tutorial.steps, 500)


def test_variants_differ_in_what_they_are_about_alone():
    improved = catalog.recipe("swedish_improved")[1].config
    for name, field, value in [
        ("swedish_improved_decay", "weight_decay", 0.01),
        ("swedish_improved_unforced", "forced_language", False),
        ("swedish_augmented", "augmentation", "varied"),
    ]:
        assert catalog.recipe(name)[1].config == improved.model_copy(update={field: value})
    high, low = (catalog.recipe(f"swedish_tiny_lr_{rate}")[1] for rate in ("1e5", "1e7"))
    assert low.config == high.config.model_copy(update={"learning_rate": 1e-7}), f"{BLOG} line 72: the rate alone"


@pytest.mark.parametrize("name, said, document, line", TRAINABLE)
def test_trainable_parameters(name, said, document, line):
    recipe = catalog.recipe(name)[1]
    trainable, _ = count(dimensions(recipe.model), recipe.config)
    assert trainable == said, f"{document} line {line}"


def test_parameters_of_the_whole_model_and_their_ratio():
    recipe = catalog.recipe("peft_int8_large_v2")[1]
    trainable, total = count(dimensions(recipe.model), recipe.config)
    assert total == 1_559_033_600, f"{PEFT} line 402"
    assert 100 * trainable / total == pytest.approx(1.0088711365810203), f"{PEFT} line 402"
    recipe = catalog.recipe("cadenza_lora_r16")[1]
    trainable, total = count(dimensions(recipe.model), recipe.config)
    # The document divides a rounded 244.6 million by it; the model as it is, without the adapter, gives 136.6.
    assert (total - trainable) / trainable == pytest.approx(138.23, rel=0.02), f"{CADENZA} line 84"


@pytest.mark.parametrize("name, said, document, lines", EFFECTIVE)
def test_effective_batch(name, said, document, lines):
    assert catalog.recipe(name)[1].config.effective_batch_size == said, f"{document} lines {lines}"


def test_an_epoch_of_the_guide_is_as_many_steps_as_its_data_gives():
    recipe = catalog.recipe("peft_int8_large_v2")[1]
    assert recipe.steps == math.ceil(6760 / 8), f"{PEFT} line 116: train and validation merged have 6,760 rows"
    spoken = catalog.task(recipe.task.replace("FOLDER", "/data"))
    assert spoken.sources[0].merge_validation, f"{PEFT} line 104"


def test_the_experiment_on_recitation_trains_validates_and_tests_on_its_reciters():
    task = catalog.task(catalog.recipe("quran_full")[1].task.replace("FOLDER", "/data"))
    splits = task.sources[0].splits
    assert [name for name, split in splits.items() if split == "train"] == [
        "Abdul_Basit_Murattal_192kbps",
        "Hudhaify_64kbps",
        "Husary_128kbps",
        "Mohammad_al_Tablaway_128kbps",
        "Muhammad_Jibreel_64kbps",
        "Ghamadi_40kbps",
    ], f"{QURAN} lines 25-30"
    held_out = {"Minshawy_Murattal_128kbps": "validation", "Yasser_Ad-Dussary_128kbps": "test"}
    assert {name: splits[name] for name in held_out} == held_out, f"{QURAN} lines 33-34"
    assert task.max_seconds == 30, f"{QURAN} line 20"
    long = {name for name, split in task.sources[1].splits.items() if split == "test_long"}
    assert long == set(held_out), f"{QURAN} line 118: no limit of 30 s"


def test_lyrics_keep_their_condition_and_their_songs_apart():
    task = catalog.task(catalog.recipe("cadenza_lora_r32")[1].task.replace("FOLDER", "/data"))
    assert task.columns.condition == "condition", f"{CADENZA} line 96: results by noise level"
    assert task.held_out == "song"


@pytest.mark.parametrize("name", [n for n in catalog.names("baselines") if n not in OURS])
def test_a_recipe_names_a_model_and_data_that_the_command_line_takes(name):
    recipe = catalog.recipe(name)[1]
    if recipe.model is not None:
        dimensions(recipe.model)
    if recipe.task is not None:
        catalog.task(recipe.task.replace("FOLDER", "/data"))


@pytest.mark.parametrize("name", catalog.names("baselines"))
def test_a_recipe_runs_on_a_cpu_and_its_row_says_what_differs(name):
    recipe = catalog.recipe(name)[1]
    config, notes = recipe.adapt(Budget(examples=1536), "cpu", "demo")
    assert config.refused_on("cpu") is None
    said = "; ".join(notes)
    assert (config.precision == recipe.config.precision) or "on CPU: precision fp32" in said
    assert recipe.model is None or f"on demo instead of {recipe.model}" in said
    if recipe.steps and 1536 / config.effective_batch_size < recipe.steps:
        steps = math.ceil(1536 / config.effective_batch_size)
        scaled = round(recipe.config.warmup_steps * steps / recipe.steps)
        assert config.warmup_steps == scaled and f"warm-up {scaled} instead of {recipe.config.warmup_steps}" in said


def test_too_few_examples_are_said():
    recipe = catalog.recipe("tutorial")[1]
    assert any("fewer than 1200 examples" in note for note in recipe.adapt(Budget(examples=1199), "cpu")[1])
    assert not any("fewer than" in note for note in recipe.adapt(Budget(examples=1200), "cpu")[1])


def test_published_evaluations_keep_their_places_under_another_budget():
    blog, quran = catalog.recipe("swedish_blog_4000")[1], catalog.recipe("quran_full")[1]
    assert blog.with_published_rungs(Budget(examples=1536)).rungs == tuple(n / 8 for n in range(1, 9))
    assert quran.with_published_rungs(Budget(examples=1536)).rungs == tuple(n / 10 for n in range(1, 11))
    assert len(quran.with_published_rungs(Budget(examples=64)).rungs) == 4, "not more evaluations than steps"
    plain = Budget(examples=64, rungs=(0.5, 1.0))
    assert catalog.recipe("cadenza_lora_r32")[1].with_published_rungs(plain) == plain


# metric, value, how many figures of the document have it, document, line
PUBLISHED = [
    ("wer", 0.69, 1, CADENZA, 130),
    ("wer", 1.0, 1, CADENZA, 100),
    ("wer", 0.167, 1, CADENZA, 114),
    ("trainable_parameters", 1_769_472, 1, CADENZA, 84),
    *[("loss", value, 1, SWEDISH, line) for value, line in ((4.415, 25), (0.325, 26), (0.304, 27))],
    *[("wer", value, 1, SWEDISH, line) for value, line in ((0.28504, 25), (0.98139, 26), (0.20663, 27))],
    *[("wer", value, 1, QURAN, 97 + n) for n, value in enumerate((0.3687, 0.195, 0.1826, 0.1552, 0.098, 0.1084, 0.069,
                                                                  0.1013, 0.0834))],
    ("wer", 0.0577, 2, QURAN, 106),
    *[("loss", value, 1, QURAN, 98 + n) for n, value in enumerate((0.2420, 0.2235, 0.2122, 0.1647, 0.1454, 0.1232,
                                                                   0.1483, 0.1313, 0.1045, 0.1048))],
    *[("wer", value, 1, QURAN, line) for value, line in ((0.3633, 120), (0.2587, 120), (0.161, 121), (0.1318, 121))],
    ("trainable_parameters", 15_728_640, 1, PEFT, 402),
    ("total_parameters", 1_559_033_600, 1, PEFT, 402),
    ("checkpoint_megabytes", 60, 1, PEFT, 51),
    ("vram_gigabytes", 8, 1, PEFT, 49),
    ("vram_gigabytes", 24, 1, PEFT, 35),
    ("hours", 8, 1, PEFT, 481),
    ("wer", 0.22266, 1, BLOG, 38),
    ("wer", 0.21602, 1, BLOG, 38),
    ("hours", 10, 1, BLOG, 32),
    ("hours", 100, 1, BLOG, 32),
]  # fmt: skip


@pytest.mark.parametrize("metric, value, times, document, line", PUBLISHED)
def test_a_published_figure_is_the_documents(metric, value, times, document, line):
    figures = Published.load(catalog.PUBLISHED).figures
    found = [f for f in figures if f.source.startswith(document) and f.metric == metric and f.value == value]
    assert len(found) == times, f"{document} line {line}"


def test_a_longer_budget_than_the_recipe_is_noted_and_not_claimed_where_there_is_none():
    _, recipe = catalog.recipe("peft_int8_large_v2_100")
    for examples, note in (
        (8 * 192, "192 steps, more than the recipe's 100"),
        (8 * 50, "50 of the recipe's 100 steps"),
    ):
        notes = recipe.adapt(Budget(examples=examples), "cuda", recipe.model)[1]
        assert note in notes and len([n for n in notes if "100" in n and "examples" not in n]) == 1


def test_the_page_names_every_recipe_and_its_commands_parse():
    page = (catalog.ROOT / "docs" / "how-to" / "papers.md").read_text(encoding="utf-8")
    assert [name for name in catalog.names("baselines") if f"`{name}`" not in page] == []
    lines = page.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("python run_sweep.py") and "FOLDER" in line]
    assert len(commands) >= 8
    for command in commands:
        options = run_sweep.parser().parse_args(command.split()[2:])
        catalog.space(options.space)
        catalog.task(options.task.replace("FOLDER", "/data"))
        for name in options.baselines or ():
            catalog.recipe(name)


@pytest.mark.parametrize(
    "space, name",
    [
        ("swedish_4000", "swedish_improved"),
        ("swedish_4000", "swedish_blog_4000"),
        ("quran_small", "quran_full"),
        ("peft_large_v2", "peft_int8_large_v2"),
    ],
)
def test_a_recipe_in_its_own_space_on_a_gpu_is_the_published_one(space, name):
    spoken, recipe = catalog.space(space)[1], catalog.recipe(name)[1]
    config, notes = recipe.adapt(spoken.budget.resolved(6760), "cuda", spoken.model)
    assert config == recipe.config, "no warm-up is scaled"
    assert not [note for note in notes if "instead of openai" in note or " of the recipe's" in note]


def test_three_searches_of_a_learning_rate_stand_in_one_comparison(command, small_space, tmp_path):
    text = small_space.read_text(encoding="utf-8").replace("  r: {choices: [4, 8]}\n", "")
    small_space.write_text(text.replace("fixed: {", "fixed: {r: 4, ").replace("examples: 64", "examples: 32"), "utf-8")
    results = ("--results", tmp_path / "results")
    for sampler in ("grid", "random", "tpe"):
        command(
            "run_sweep.py", "--space", small_space, "--trials", "2", "--sampler", sampler, "--study", sampler, *results
        )
    said = command("compare.py", "--study", "grid", "random", "tpe", *results).stdout
    for sampler in ("grid", "random", "tpe"):
        assert re.search(rf"{sampler}\W+trial [01]", said), said
