"""When a search has done enough, though trials are left."""

from harness.plan import Plan
from harness.search.leaders import seconds, since_better
from harness.search.study import Study


def enough(plan: Plan, study: Study, passed: float) -> str | None:
    """Why no new trial is to be begun, or None; `passed` is how many seconds this call has been at work."""
    goals = plan.goals
    if study.exhausted():
        return "every configuration of the space was tried"
    if plan.timeout is not None and passed > plan.timeout:
        return f"the time-out of {plan.timeout:g} s is reached"
    if goals.gpu_hours is not None and (hours := seconds(study) / 3600) >= goals.gpu_hours:
        return f"trials took {hours:.2f} of {goals.gpu_hours:g} GPU hours"
    if goals.patience is not None and (since := since_better(study)) >= goals.patience > 0:
        return f"the study has stalled: {since} trials without a better one"
    return None
