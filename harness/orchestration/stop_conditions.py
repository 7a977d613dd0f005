"""Decide when a search stops before all its trials are used: time-out, GPU hours, patience, exhausted space."""

from harness.plan import Plan
from harness.search.best_trials import total_seconds, trials_since_improvement
from harness.search.study import Study


def stop_reason(plan: Plan, study: Study, passed: float) -> str | None:
    """Why no new trial is to be begun, or None; `passed` is how many seconds this call has been at work."""
    search_options = plan.search_options
    if study.exhausted():
        return "every configuration of the space was tried"
    if plan.timeout is not None and passed > plan.timeout:
        return f"the timeout of {plan.timeout:g} s is reached"
    if search_options.gpu_hours is not None and (hours := gpu_hours(plan, study)) >= search_options.gpu_hours:
        return f"trials took {hours:.2f} of {search_options.gpu_hours:g} GPU hours"
    if (
        search_options.patience is not None
        and (since := trials_since_improvement(study)) >= search_options.patience > 0
    ):
        return f"{since} trials without improvement (--patience)"
    return None


def gpu_hours(plan: Plan, study: Study) -> float:
    """Return the hours of training and evaluation of all trials, on the GPU of each of their processes."""
    return plan.processes * total_seconds(study) / 3600
