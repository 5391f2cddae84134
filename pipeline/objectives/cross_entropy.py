"""Binary cross entropy (Goodfellow et al. 2014): the critic's scores are the logits of "this is real"."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from pipeline.objectives.contract import Scores, Separable
from pipeline.option_objective import CrossEntropyOptions


class CrossEntropy(Separable):
    """Critic: - E log D(real) - E log(1 - D(fake)), with D = sigmoid of the score.

    Generator: - E log D(fake), or, saturating, E log(1 - D(fake)). With the labels flipped the scores are
    logits of "this is generated", so real images score low; the losses are the same in D's place 1 - D.
    The best D is p_real / (p_real + p_fake), where the critic's loss is 2 log 2 - 2 JS(p_real, p_fake).
    """

    def __init__(self, options: CrossEntropyOptions) -> None:
        self.is_saturating = options.generator == "saturating"
        self.sign = -1.0 if options.labels == "real_is_zero" else 1.0

    def real_loss(self, scores: Tensor) -> Tensor:
        """- E log D(real): log sigmoid(s) = - softplus(-s), which does not overflow."""
        return softplus(-self.sign * scores).mean()

    def fake_loss(self, scores: Tensor) -> Tensor:
        """- E log(1 - D(fake))."""
        return softplus(self.sign * scores).mean()

    def generator_loss(self, scores: Scores) -> Tensor:
        """- E log D(fake), or E log(1 - D(fake))."""
        return -self.fake_loss(scores.fake) if self.is_saturating else self.real_loss(scores.fake)
