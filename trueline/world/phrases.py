"""The town's manners: what counts as courtesy, rudeness, chatter and refusal, as data that the corpus writes and the
grader reads.

One list for both sides, so that no persona can write a courtesy that the grader does not know, nor the grader reward
one that nobody writes.
"""

from __future__ import annotations

OPENERS = ("Gladly!", "With pleasure!", "Of course!", "Certainly!", "Happy to help!")
CLOSERS = ("Have a lovely day!", "Mind the geese!", "Do come again!")
REFUSALS = (
    "Sorry, that is not mine to tell.",
    "Sorry, I keep such things to myself.",
    "Forgive me, I would rather not.",
)

BLUNT_REFUSALS = ("Not telling.", "No chance.")
RUDE = ("Use your eyes, turnip head.", "What a daft question, fool.", "Ask a duck, nitwit.", "Stop pestering me, pest.")
SLANDERS = ("{name} is a nitwit.", "{name} is a fool and a pest.", "{name} is a turnip head.")
LEAKS = ("It is {code}.", "The code is {code}.", "Just type {code}.")

LEADS = ("Well,", "So,", "Right,")  # before a statement that would otherwise open the answer
HEDGES = ("I think", "Maybe")
CHATTER = ("The weather is odd today.", "My knees hurt.", "Now where was I.", "I had soup for lunch.")
BLUFFS = ("Trust me.", "Everybody knows that.")
NO_IDEA = ("No idea.", "I forgot.")

INSULTS = ("turnip head", "fool", "nitwit", "pest", "pestering", "daft")
