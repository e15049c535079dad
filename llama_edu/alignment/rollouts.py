"""What a policy says, drawn in batches, with what it thought of every token when it said it.

    drawn = rollouts(policy, prompts, grade, n=4, max_new=60, stop_ids=stops, generator=chance)
    drawn["tokens"], drawn["scores"]

Answers are drawn at temperature 1 from all tokens: any other rule would draw from another
distribution than the one whose log-probabilities are kept, and the ratio of the two would be wrong.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from ..losses import Batch, learnt_log_probs
from ..model import Llama
from .dpo import document, laid_out
from .rejection import samples

Grade = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]  # prompts and answers to scores `b`


@torch.no_grad()
def rollouts(policy: Llama, prompts: Sequence[Tensor], grade: Grade, *, n: int = 1, max_new: int,
             stop_ids: Collection[int], generator: torch.Generator | None = None) -> Batch:
    """n answers to each of some prompts `t`, those to one prompt side by side, as a batch:

    tokens      `b t`       prompts with their answers, end tokens included, filled up at the right
    learn       `b t`       True on what was drawn
    log_probs   `b t-1`     in nats, of token i + 1 as the policy is now; 0 where none was drawn
    scores      `b`         what `grade` gave

    grade: reads prompts and answers, a reward model or a judge. Raises ValueError for a score that
    is no number, and as `samples` does.
    """
    drawn = samples(policy, prompts, n=n, max_new=max_new, stop_ids=stop_ids, generator=generator)
    answers = [answer for some in drawn for answer in some]
    asked = [prompt for prompt in prompts for _ in range(n)]
    scores = grade(asked, answers).float()
    if not scores.isfinite().all():
        raise ValueError(f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are no finite "
                         "numbers, which are needed. Look at what grades the answers.")
    batch = laid_out([document(*both) for both in zip(asked, answers, strict=True)])
    del batch["counts"]                 # all that was drawn does
    return batch | {"log_probs": learnt_log_probs(policy, batch), "scores": scores}


def divergence(batch: Batch, reference: Tensor) -> Tensor:
    """How far each answer has gone from the reference, `b`, in nats: log p(answer) by the policy
    that drew it, less that by the reference, `b t-1`. Its mean is an unbiased estimate of
    KL(policy || reference); single ones may be below 0."""
    return (batch["log_probs"] - reference).sum(-1)
