"""`trueline serve`: an aligned policy behind OpenAI's protocol, that goes on aligning at inference.

`wire` is what requests may say and what mistakes get; `worker` is the one thread that computes; `policies` are the
models that are served and what their answers are worth; `conditions` is what asks them for their best; `answers` ranks
candidates; `app` puts addresses on them; `door` keeps the slow out; `run` starts it all and drains it.
"""
