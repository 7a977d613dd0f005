"""Search, train, evaluate and compare fine-tuning configurations of Whisper.

Packages, each of which imports only from those below it:

- app, transcribe, cache: the commands `python -m harness.app`, `harness.transcribe` and `harness.cache`
- publish: export the best run for other programs
- compare: test transcripts, statistics, the leaderboard and the report
- orchestration: the supervisor process of a sweep
- training, search: the trainer process; the Optuna study
- evaluation, plan: decoding and error rates; a command line resolved to files and values
- hardware: GPUs, clocks, memory, processes
- model: the base model, fine-tuning methods, optimizers, the encoder-state cache
- data, model_size: sources, splits, features and batches; parameter and FLOP counts by formula
- records: study folders, result.json, the MLflow mirror
- catalog, spec, command_line, errors: names of files; validated types; shared options; errors for users
"""

__version__ = "0.2.0"
