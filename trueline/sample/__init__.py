"""Sampling: engines that write completions, and the `draw` stage that fills groups with them."""
