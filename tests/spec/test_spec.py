"""What files may say, and how a wrong one is answered."""

import pytest

from harness import catalog
from harness.errors import UserError, nearest
from harness.spec.base import read_yaml
from harness.spec.budget import Budget, epoch_examples
from harness.spec.recipe import Recipe
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig

SPACE = {
    "description": "",
    "model": "demo",
    "task": "demo",
    "budget": {"examples": 100},
    "fixed": {"method": "full"},
    "sampled": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
}


@pytest.mark.parametrize("text, value", [("1e-5", 1e-5), ("2E3", 2e3), ("-1e-2", -0.01), ("3", 3), ("0.5", 0.5)])
def test_numbers_in_yaml(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"x: {text}")
    assert read_yaml(tmp_path / "a.yaml") == {"x": value}


@pytest.mark.parametrize(
    "content, said",
    [
        ("config: {method: full, learning_rate: fast}", "'fast'"),
        ("config: {method: full, lr: 1e-5}", "config.lr"),
        ("config: {method: ful}", "'lora'"),
        ("a: 1\na: 2", "twice"),
        ("config: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_answered_with_what_was_given(tmp_path, content, said):
    path = tmp_path / "r.yaml"
    path.write_text(f"description: d\nsource: s\n{content}\n")
    with pytest.raises(UserError, match=r"r\.yaml") as error:
        Recipe.load(path)
    assert said in str(error.value)


def test_an_unknown_field_names_the_valid_ones_of_its_own_type(tmp_path):
    (tmp_path / "r.yaml").write_text("description: d\nsource: s\nconfig: {method: full, learning_rat: 1}\n")
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        Recipe.load(tmp_path / "r.yaml")


def test_nearest_puts_the_similar_name_first():
    assert nearest("dmo", ["demo", "lora_small"]).startswith("did you mean 'demo'?")


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "lora", "r": 8},
        {"method": "full", "r": 8},
        {"method": "full", "warmup_steps": 3, "warmup_ratio": 0.1},
        {"method": "full", "learning_rate": 0},
        {"method": "full", "learning_rate": float("nan")},
    ],
)
def test_inconsistent_trials_are_refused(fields):
    with pytest.raises(ValueError):
        TrialConfig(**fields)


def test_budget_counts_examples_whatever_the_batch():
    budget = Budget(examples=100, rungs=(0.25, 0.5, 1.0))
    assert (budget.schedule_steps(16), budget.rung_steps(16)) == (7, [2, 4, 7])
    assert (budget.schedule_steps(1), budget.rung_steps(1)) == (100, [25, 50, 100])
    assert budget.total_examples(16) == 100


def test_budgets_in_other_units():
    epochs = Budget(epochs=2.5, rungs=(0.5, 1.0))
    assert epochs.resolved(40) == Budget(examples=100, rungs=(0.5, 1.0))
    with pytest.raises(ValueError, match="resolved first"):
        epochs.schedule_steps(16)
    steps = Budget(steps=30, rungs=(0.5, 1.0))
    assert (steps.schedule_steps(16), steps.rung_steps(16), steps.total_examples(16)) == (30, [15, 30], 480)
    seconds = Budget(train_seconds=60, rungs=(0.5, 1.0))
    assert (seconds.schedule_steps(16), seconds.rung_steps(16), seconds.total_examples(16)) == (
        1000,
        [500, 1000],
        None,
    )
    assert (seconds.position(7, 30.0), steps.position(7, 30.0)) == (500, 7)
    assert [budget.describe() for budget in (epochs, steps, seconds)] == ["2.5 epochs", "30 steps", "60 s of training"]


def test_an_epoch_counts_the_weights_of_the_sources():
    splits = {"train": {"utterances": 40, "seconds": 80.0}}
    assert epoch_examples({"splits": splits, "epoch": {"utterances": 60, "seconds": 100.0}}) == 60
    assert epoch_examples({"splits": splits}) == 40, "a report of an earlier release"


@pytest.mark.parametrize("given", [{}, {"examples": 10, "steps": 10}, {"steps": 0}, {"train_seconds": -1}])
def test_a_budget_has_one_unit(given):
    with pytest.raises(ValueError):
        Budget(**given)


@pytest.mark.parametrize("rungs", [(0.5,), (0.5, 0.5, 1.0), (0.0, 1.0), (1.0, 0.5), ()])
def test_rungs_must_climb_to_the_end(rungs):
    with pytest.raises(ValueError, match="rungs"):
        Budget(examples=10, rungs=rungs)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"sampled": {"lr": {"low": 0.1, "high": 1}}}, "not a setting of a trial"),
        ({"sampled": {"method": {"choices": ["lora"]}}}, "both fixed and sampled"),
        ({"sampled": {"learning_rate": {"low": 0, "high": 1, "log": True}}}, "log needs low above 0"),
        ({"sampled": {"learning_rate": {"low": 2, "high": 1}}}, "must not be above"),
        ({"sampled": {"learning_rate": {"choices": [1e-3], "log": True}}}, "go with low and high"),
        ({"sampled": {"learning_rate": {}}}, "either choices"),
        ({"sampled": {"per_device_train_batch_size": {"low": 0.5, "high": 4}}}, "whole numbers"),
        ({"sampled": {"per_device_train_batch_size": {"choices": [0, 4]}}}, "greater than or equal to 1"),
        ({"budget": {"train_seconds": 9}, "fixed": {"method": "full", "warmup_steps": 5}}, "give warmup_ratio"),
        ({"fixed": {"method": "lora"}}, "needs r"),
    ],
)
def test_a_space_that_cannot_work_is_refused_when_it_is_read(change, said):
    with pytest.raises(UserError, match=said):
        SearchSpace.parse({**SPACE, **change}, "space")


def test_a_recipe_under_a_budget_scales_its_warm_up_and_says_so():
    recipe = catalog.recipe("tutorial")[1]
    config, notes = recipe.adapt(Budget(examples=1600), "cpu")
    assert config.warmup_steps == round(500 * 100 / 4000)
    assert config.precision == "fp32"
    assert notes == ["on CPU: precision fp32", "100 of the recipe's 4000 steps", "warm-up 12 instead of 500"]


def test_a_recipe_with_budget_enough_is_left_alone():
    recipe = catalog.recipe("tutorial")[1]
    assert recipe.adapt(Budget(examples=16 * 4000), "cuda") == (recipe.config, [])


@pytest.mark.parametrize("folder, load", [("search_spaces", catalog.space), ("baselines", catalog.recipe)])
def test_every_file_that_ships_is_valid(folder, load):
    assert catalog.names(folder)
    for name in catalog.names(folder):
        load(name)


def test_every_task_that_ships_is_valid():
    for name in catalog.names("tasks"):
        options = read_yaml(catalog.find("tasks", name)).get("options", {})
        needed = ",".join(f"{option}=sv" for option, value in options.items() if value is None)
        assert catalog.task(f"{name}:{needed}" if needed else name).name
