"""The losses of SGCL as functions of similarities; no state, no trainer (sgcl-method.md 2.5, 2.8, 2.8b)."""

import torch
from torch import Tensor

EPSILON = 1e-7


def info_nce(positive: Tensor, negatives: Tensor, temperature: float, absent: Tensor | None = None) -> Tensor:
    """Mean of -log[ e^{p/T} / (e^{p/T} + sum_k e^{n_k/T}) ].

    Args:
        positive: (B,) similarity with the positive.
        negatives: (B, K) similarities with the negatives.
        absent: (B, K) bool, negatives to leave out.
    """
    if absent is not None:
        negatives = negatives.masked_fill(absent, -torch.inf)
    logits = torch.cat([positive[:, None], negatives], 1) / temperature
    return (torch.logsumexp(logits, 1) - logits[:, 0]).mean()


def neighbour_loss(
    positives: Tensor,
    positive_mask: Tensor,
    mined: Tensor,
    mined_mask: Tensor,
    temperature: float,
    *,
    repel: bool = True,
    constant: int | None = None,
    skip_empty: bool = True,
) -> Tensor:
    """The spatial/semantic loss: mean_i of -log( Num_i / Den_i + 1e-7 ) with all positives of an anchor inside one log.

    Num = sum_{j in U} e^{s_j/tau};  Den = Num + [N - |U|] + sum_{k in H} e^{s_k/tau}.

    Args:
        positives: (B, U) similarities with the positive set; positive_mask: (B, U) bool, which entries exist.
        mined: (B, H) similarities with the mined negatives; mined_mask: (B, H) bool.
        repel: let the mined negatives receive gradient (D1 fixed); False stops it, as the published code does.
        constant: N adds the published constant N - |U| to the denominator (D2); None leaves it out.
        skip_empty: average over the anchors that have a positive (D4 fixed), 0 when none has; False gives -log(1e-7) for the others.

    Returns:
        scalar.
    """
    mined = mined if repel else mined.detach()
    present = positive_mask.any(1)
    numerator = _log_sum(positives / temperature, positive_mask)
    parts = [numerator, _log_sum(mined / temperature, mined_mask)]
    if constant is not None:
        parts.append((constant - positive_mask.sum(1)).to(numerator).clamp(min=EPSILON).log())
    denominator = torch.logsumexp(torch.stack(parts), 0)
    share = torch.where(present, numerator - denominator, 0).exp() * present
    loss = -(share + EPSILON).log()
    if not skip_empty:
        return loss.mean()
    return (loss * present).sum() / present.sum().clamp(min=1)


def _log_sum(logits: Tensor, mask: Tensor) -> Tensor:
    """Row-wise log of the sum of exponentials over the masked-in entries; a very negative number for an empty row."""
    floor = torch.finfo(logits.dtype).min / 4
    if logits.shape[1] == 0:
        return logits.new_full((len(logits),), floor)
    return torch.logsumexp(logits.masked_fill(~mask, floor), 1)


def ramp_up(epoch: int, length: int) -> float:
    """Weight w(t) = exp(-5 (1 - min(t, T)/T)^2) of the neighbour loss at 0-based epoch t; 1 when T is 0."""
    if length <= 0:
        return 1.0
    return float(torch.exp(torch.tensor(-5.0 * (1 - min(epoch, length) / length) ** 2, dtype=torch.float64)))
