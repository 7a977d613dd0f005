"""The helper process of the gp sampler, which imports torch: finished trials in, a proposal out (JSON)."""

import json
import sys
import warnings

import optuna
from optuna.distributions import json_to_distribution

from harness.search.sampling import configuration
from harness.spec.space import SearchSpace


def main() -> None:
    """Read one order from standard input, print the proposed parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    order = json.load(sys.stdin)
    space = SearchSpace.parse(order["space"], "the order")
    sampler = optuna.samplers.GPSampler(seed=order["seed"], n_startup_trials=0)
    study = optuna.create_study(directions=["minimize"] * len(space.objectives), sampler=sampler)
    for told in order["trials"]:
        distributions = {name: json_to_distribution(text) for name, text in told["distributions"].items()}
        study.add_trial(
            optuna.trial.create_trial(params=told["params"], distributions=distributions, values=told["values"])
        )
    trial = study.ask()
    configuration(space, trial)
    print(json.dumps(trial.params))


if __name__ == "__main__":
    main()
