"""Corpora: rows of files become prompts, groups and demonstrations. Nothing here knows tokens or models beyond `check`."""
