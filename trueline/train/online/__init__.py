"""Learning from answers that the policy itself has just written: `online` and what it is made of.

`stage` is the stage and its refusals, `loop` the iterations, `rollouts` what is drawn, scored and read of an answer,
`rewards` what each token of it gets, `ppo` the loss; an advantage rule is one file each (`gae`, `rloo`, `grpo`).
"""
