"""Objectives, one per file: what a batch weighs and what its loss is. The loop divides; an objective only sums."""
