"""Instruction data: where it is, what form it has, and its rows."""
