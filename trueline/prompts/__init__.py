"""Corpora: rows of files become prompts, groups and demonstrations. Nothing here knows models, `check` excepted."""
