"""Studies on disk with runs that were really trained."""

from pathlib import Path

from harness.records.files import write_json
from harness.records.study_folder import StudyFolder, store
from harness.spec.budget import Budget
from harness.spec.messages import Train
from harness.spec.result import Record
from harness.spec.trial import TrialConfig
from harness.training.trial import run_trial


class Studies:
    """Studies on disk, with runs that were really trained, for a few steps, on the small folder of speech."""

    def __init__(self, results: Path, context, speech: Path) -> None:
        self.results, self.context, self.speech, self.model = results, context, speech, "demo"

    def add(self, study: str, config: TrialConfig, name: str = "trial 0", **fields) -> Path:
        folder = StudyFolder(self.results / study)
        identity = {
            "model": self.model,
            "task": {"name": "<small>", "language": "en", "normalizer": None, "task": "transcribe"},
        }
        write_json(folder.manifest, {"study": study, "seed": 1, "task": str(self.speech), "identity": identity})
        write_json(folder.path / "data_report.json", self.context.speech.report)
        budget = Budget(examples=fields.pop("examples", 48))
        attempt = folder.attempt()
        trial = run_trial(self.context, Train(config=config, budget=budget, seed=1, attempt=str(attempt)))
        try:
            next(trial)
            while True:
                trial.send(True)
        except StopIteration as end:
            result = end.value.result
        data = {split: held["hash"] for split, held in self.context.speech.report["splits"].items()}
        number = None if "kind" in fields else int(name.split()[1])
        record = Record(
            kind=fields.get("kind", "trial"), name=name, number=number, seed=1, state=result.state, config=config,
            budget=budget, notes=("<b>a note</b>",), rungs=result.rungs, cost=result.cost, started="2026-01-01T00:00:00",
            ended="2026-01-01T00:01:00", environment={"packages": {"torch": "2"}, "commit": "c" * 40},
            data={"languages": ["en"], **data},
        )  # fmt: skip
        place = folder.baseline(name, 1) if number is None else folder.trial(number)
        store(attempt, place, record)
        return place
