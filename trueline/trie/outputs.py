"""What one forward pass over a trie gives; `trie.forward` says how to ask for it.

Shape suffixes: E entries (a scored token of one sequence), S states that predict something, N sequences, T trie tokens,
D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trueline.trie import states


@dataclass(eq=False)
class Outputs:
    """What one pass gives, in float32 (float64 for a float64 model), natural log.

    logps_E: log-prob of each scored token of each sequence; seq_E its sequence. logps_N: their sum per sequence;
    counts_N (int64) how many. last_hidden_ND: final-norm hidden state at each sequence's last token; greedy_E: whether
    a scored token is the likeliest one (the first of equals); last_states [N, D] and states [T, D]: hidden states of
    every layer (see `states`) at each sequence's last token, and at every trie token; kl_E: KL(reference || model) of
    the next token (or KL(model || reference)), in nats, where a scored token stands, and entropy_E: the entropy of the
    next token there; scored_hidden_SD: final-norm hidden state at each of the trie's states state_S; all where they
    were asked for.
    """

    logps_E: torch.Tensor
    seq_E: torch.Tensor
    n: int
    last_hidden_ND: torch.Tensor | None = None
    greedy_E: torch.Tensor | None = None
    last_states: states.Layers | None = None
    states: states.Layers | None = None
    kl_E: torch.Tensor | None = None
    scored_hidden_SD: torch.Tensor | None = None
    entropy_E: torch.Tensor | None = None

    @property
    def logps_N(self) -> torch.Tensor:
        """Summed log-prob per sequence, in float64 where the device has it."""
        return self.summed(self.logps_E)

    def summed(self, value_E: torch.Tensor) -> torch.Tensor:
        """A number of each scored token, summed per sequence, in float64 where the device has it."""
        # A sum near -5,000 has steps of 5e-4 in float32, which show in the fifth digit of a DPO loss.
        wide = value_E.dtype if value_E.device.type == "mps" else torch.float64
        return value_E.new_zeros(self.n, dtype=wide).index_add(0, self.seq_E, value_E.to(wide))

    @property
    def counts_N(self) -> torch.Tensor:
        """Scored tokens per sequence."""
        return torch.bincount(self.seq_E, minlength=self.n)
