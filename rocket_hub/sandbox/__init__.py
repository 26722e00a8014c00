"""Run Python that a model wrote, where it can do no harm (Linux only)."""

from rocket_hub.sandbox.runner import Limits, Outcome, check_isolation, run_program, run_programs

__all__ = ["Limits", "Outcome", "check_isolation", "run_program", "run_programs"]
