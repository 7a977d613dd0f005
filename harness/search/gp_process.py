"""Propose a trial with Optuna's GP sampler in a process of its own, because that sampler imports torch.

Standard input is one JSON object: `space`, `seed`, and `trials` (values, params and distributions of the finished
trials). Standard output is a JSON object with the proposed parameters. `samplers.propose_with_gp` starts it.
"""

import json
import sys
import warnings

import optuna
from optuna.distributions import json_to_distribution

from harness.search.sampling import suggest_configuration
from harness.spec.space import SearchSpace


def main() -> None:
    """Read the request from standard input and print the proposed parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    request = json.load(sys.stdin)
    space = SearchSpace.parse(request["space"], "the order")
    sampler = optuna.samplers.GPSampler(seed=request["seed"], n_startup_trials=0)
    study = optuna.create_study(directions=["minimize"] * len(space.objectives), sampler=sampler)
    for finished in request["trials"]:
        distributions = {name: json_to_distribution(text) for name, text in finished["distributions"].items()}
        study.add_trial(
            optuna.trial.create_trial(params=finished["params"], distributions=distributions, values=finished["values"])
        )
    trial = study.ask()
    suggest_configuration(space, trial)
    print(json.dumps(trial.params))


if __name__ == "__main__":
    main()
