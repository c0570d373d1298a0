"""The public names: a snapshot, so that none comes or goes unnoticed, and each really is there."""

from __future__ import annotations

import trueline

SNAPSHOT = (
    "Message Prompt Completion Feedback Preference Group UserError File Store Prompts Groups Policy Logprobs Report "
    "stage make Machine Ray pretrained LoRA Head Last Layer WeightedSum AttentionPooler as_classifier from_classifier "
    "preferences ratings asked toxicity_prompts tldr take without demonstrations invent vicuna annotated "
    "model_outputs QuantileTokens QuantilePhrases Labels Attributes Critiques Exemplars asking Sampling Engine HF "
    "VLLM Scripted OpenAI Anthropic Connection engine Shots Prompted AsUser draw Filters teach gather pooled "
    "self_play Critic Comparer Verdict Rule Compare Annotator ByGenerator WellFormed Reward LogProb Sampled Grade "
    "Critique Classifier Perspective Profanity Sentiment judge All Best First Demonstrations Documents Pairs Rated "
    "Conditioned Everything PerClass PerPrompt extend SFT DPO BradleyTerry DPH ORPO KLToReference Steer Sum "
    "ConditionalLM AdamW LaProp ParameterGroup score PPO GAE RLOO GRPO online snapshot accuracy measure Likelihood "
    "PreferenceHead Generated TwoOrders PTrue scoreboard best climb select audit reward_accuracy Optimised "
    "overoptimisation duel reviews leaderboard Contrast contrasts fluency qualities rounds control Arm report"
)


def test_the_public_names_are_these():
    assert " ".join(trueline.__all__) == SNAPSHOT


def test_every_public_name_is_there_and_documented():
    for name in trueline.__all__:
        value = getattr(trueline, name)
        assert value.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(trueline, "PPOTrainer")
