"""Feedback: critics that say something of completions, and the `judge` stage that writes it down."""
