"""Conditions: what is said of an answer in front of its prompt, one file each. The same object describes answers for
training and asks for them when sampling, so that the two cannot drift apart."""
