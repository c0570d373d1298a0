"""Align language models with feedback, and prove what the feedback bought.

The public names, in pipeline order. Each is imported from its module when first used, so that `import trueline` (and a
plan) loads neither torch nor transformers. Training itself is `trueline.train.stage.train`: the package of that name
keeps the short one.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    # what flows
    "Message": "records",
    "Prompt": "records",
    "Completion": "records",
    "Feedback": "records",
    "Preference": "records",
    "Group": "records",
    "UserError": "errors",
    # where it lies, and how it is made
    "File": "store",
    "Store": "store",
    "Prompts": "store",
    "Groups": "store",
    "Policy": "store",
    "Logprobs": "store",
    "Report": "store",
    "stage": "pipeline",
    "make": "pipeline",
    "Machine": "machine",
    "Ray": "machine",
    # models and data from outside
    "pretrained": "models",
    "LoRA": "models",
    "Head": "heads",
    "Last": "heads",
    "Layer": "heads",
    "WeightedSum": "heads",
    "AttentionPooler": "heads",
    "as_classifier": "heads.classification",
    "from_classifier": "heads.classification",
    "preferences": "prompts.preferences",
    "ratings": "prompts.ratings",
    "asked": "prompts.asked",
    "toxicity_prompts": "prompts.toxicity",
    "tldr": "prompts.tldr",
    "take": "prompts.take",
    "without": "prompts.take",
    "demonstrations": "prompts.demonstrations",
    "invent": "prompts.invent",
    "vicuna": "prompts.vicuna",
    "annotated": "prompts.alpaca_eval",
    "model_outputs": "prompts.alpaca_eval",
    # what is said of answers, and asked for
    "QuantileTokens": "conditions.tokens",
    "QuantilePhrases": "conditions.phrases",
    "Labels": "conditions.labels",
    "Attributes": "conditions.attributes",
    "Critiques": "conditions.critiques",
    "Exemplars": "conditions.critiques",
    "asking": "conditions.protocol",
    # sample
    "Sampling": "sample.protocol",
    "Engine": "sample.protocol",
    "HF": "sample.hf",
    "VLLM": "sample.vllm",
    "Scripted": "sample.scripted",
    "OpenAI": "sample.served",
    "Anthropic": "sample.served",
    "Connection": "sample.served",
    "engine": "sample.named",
    "Shots": "sample.shots",
    "Prompted": "sample.prompted",
    "AsUser": "sample.as_user",
    "draw": "sample.draw",
    "Filters": "sample.teach",
    "teach": "sample.teach",
    "gather": "sample.pooled",
    "pooled": "sample.pooled",
    "self_play": "recipes._self_play",
    # judge
    "Critic": "feedback.protocol",
    "Comparer": "feedback.protocol",
    "Verdict": "feedback.protocol",
    "Rule": "feedback.rule",
    "Compare": "feedback.compare",
    "Annotator": "feedback.annotator",
    "ByGenerator": "feedback.generator",
    "WellFormed": "feedback.shape",
    "Reward": "feedback.reward",
    "LogProb": "feedback.likelihood",
    "Sampled": "feedback.sampled",
    "Grade": "feedback.grade",
    "Critique": "feedback.critique",
    "Classifier": "feedback.classifier",
    "Perspective": "feedback.perspective",
    "Profanity": "feedback.profanity",
    "Sentiment": "feedback.sentiment",
    "judge": "feedback.judge",
    # train
    "All": "train.views",
    "Best": "train.views",
    "First": "train.views",
    "Demonstrations": "train.views",
    "Documents": "train.views",
    "Pairs": "train.views",
    "Rated": "train.views",
    "Conditioned": "train.conditioned",
    "Everything": "train.picks",
    "PerClass": "train.picks",
    "PerPrompt": "train.picks",
    "extend": "train.extend",
    "SFT": "train.objectives.sft",
    "DPO": "train.objectives.dpo",
    "BradleyTerry": "train.objectives.bradley_terry",
    "DPH": "train.objectives.dph",
    "ORPO": "train.objectives.orpo",
    "KLToReference": "train.objectives.kl",
    "Steer": "train.objectives.steer",
    "Sum": "train.objectives.sum",
    "ConditionalLM": "train.objectives.conditional",
    "AdamW": "train.optimizers",
    "LaProp": "train.optimizers",
    "ParameterGroup": "train.optimizers",
    "score": "train.score",
    "PPO": "train.online.ppo",
    "GAE": "train.online.gae",
    "RLOO": "train.online.rloo",
    "GRPO": "train.online.grpo",
    "online": "train.online.stage",
    "snapshot": "train.online.snapshots",
    # evaluate
    "accuracy": "evaluate.accuracy",
    "measure": "evaluate.measure",
    "Likelihood": "evaluate.readers.likelihood",
    "PreferenceHead": "evaluate.readers.head",
    "Generated": "evaluate.readers.generated",
    "TwoOrders": "evaluate.readers.orders",
    "PTrue": "evaluate.readers.ptrue",
    "scoreboard": "evaluate.scoreboard",
    "best": "evaluate.best",
    "climb": "evaluate.best",
    "select": "evaluate.select",
    "audit": "evaluate.audit",
    "reward_accuracy": "evaluate.reward_accuracy",
    "Optimised": "evaluate.overoptimisation",
    "overoptimisation": "evaluate.overoptimisation",
    "duel": "evaluate.duel",
    "reviews": "evaluate.reviews",
    "leaderboard": "evaluate.leaderboard",
    "Contrast": "evaluate.contrasts",
    "contrasts": "evaluate.contrasts",
    "fluency": "evaluate.fluency",
    "qualities": "evaluate.qualities",
    "rounds": "evaluate.rounds",
    "control": "evaluate.control",
    "Arm": "evaluate.report",
    "report": "evaluate.report",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trueline' has no attribute {name!r}")
    module = importlib.import_module(f"trueline.{_HOMES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
