"""Evaluation: duels, statistics over prompts, and the report."""
