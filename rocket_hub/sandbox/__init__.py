"""Run untrusted Python in a sandbox (Linux only)."""

from rocket_hub.sandbox.runner import Limits, Outcome, check_isolation, run_program, run_programs

__all__ = ["Limits", "Outcome", "check_isolation", "run_program", "run_programs"]
