"""Frozen, validated types: search space, task, recipe, trial configuration, record, and messages between processes.

A new setting, field or message starts here, with its validation and its description for the reference pages. What needs
data, a model, Optuna or the network does not belong here.
"""
