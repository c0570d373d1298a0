"""Engines over HTTP: any server that speaks OpenAI's protocols, and Anthropic's, through their own SDKs.

    OpenAI("gpt-5-mini")
    OpenAI("Qwen/Qwen2.5-7B-Instruct", Connection("http://localhost:8000/v1", concurrency=32))
    Anthropic("claude-haiku-4-5", connection=Connection(max_cost=5.0))

Like every engine they are frozen dataclasses: what they say is their identity, where and how fast is a `Connection`,
which is none. Every reply is kept in the store as it arrives and never asked for again (`replies`); what failed on the
way is asked again with growing waits (`asking`); tokens and money are counted (`prices`) and may be limited (`budget`).

Nothing is imported from the SDKs until a question really has to be asked.
"""

from trueline.sample.served.by_anthropic import Anthropic
from trueline.sample.served.by_openai import OpenAI
from trueline.sample.served.connection import Connection

__all__ = ["Anthropic", "Connection", "OpenAI"]
