"""Align language models with feedback, and prove what the feedback bought."""
