"""A recipe that was edited between two calls: trained again, the old record kept beside, and MLflow shows the new one."""

from mlflow import MlflowClient

RECIPE = """
description: for tests
source: none
config: {{method: full, learning_rate: {rate}, per_device_train_batch_size: 8}}
"""


def rates(disturbed) -> dict[str, float]:
    return {key: made["config"]["learning_rate"] for key, made in disturbed.results().items()}


def test_an_edited_recipe_is_trained_again_beside_its_old_record(disturbed):
    recipe = disturbed.path / "mine.yaml"
    disturbed.trials, disturbed.options = 0, ["--baselines", str(recipe), "--tune-baselines", "2"]
    recipe.write_text(RECIPE.format(rate="1e-5"))
    disturbed.finish()
    before = rates(disturbed)
    recipe.write_text(RECIPE.format(rate="5e-4"))
    output = disturbed.finish()
    after = rates(disturbed)
    assert before["baselines/mine/1"] == 1e-5 and after["baselines/mine/1"] == 5e-4
    assert after["tuning/mine/1"] != before["tuning/mine/1"]
    assert {key: after[f"superseded/{key}"] for key in before} == before
    assert "learning_rate 1e-05 -> 0.0005" in output
    client = MlflowClient(tracking_uri=f"sqlite:///{disturbed.study / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("s").experiment_id], "tags.kind = 'recipe'")
    assert {run.data.tags["record"]: float(run.data.params["learning_rate"]) for run in runs} == {
        key: rate for key, rate in after.items() if not key.startswith("superseded")
    }
