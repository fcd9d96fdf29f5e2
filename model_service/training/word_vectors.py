"""Token vectors from plain text in seconds: which tokens stand near which, weighed, and reduced by SVD.

Levy and Goldberg (2014) showed that word2vec factors a matrix of shifted mutual information; factoring it
directly needs no training. Tokens that can replace each other ("pizza", "sandwich") come out close, so a
classifier that starts from these vectors knows something of words its few labelled texts hardly show.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

OVERSAMPLING = 16  # directions the randomised SVD computes beside the wanted ones, for precision


def token_vectors(
    texts: Iterable[list[int]], vocab_size: int, dim: int, *, window: int = 5, smoothing: float = 0.75
) -> Tensor:
    """Return (vocab_size, dim) float32 with unit variance; tokens that stand nowhere get zeros.

    texts: token ids. Neighbours up to `window` tokens apart count 1/distance. Needs `vocab_size`^2 floats
    of memory several times over: for vocabularies of thousands, not of tens of thousands.
    """
    gap = [-1] * window  # keeps the neighbours of one text out of the next
    flat = torch.tensor([token for text in texts for token in (*text, *gap)])
    counts = torch.zeros(vocab_size, vocab_size)
    for distance in range(1, window + 1):
        left, right = flat[:-distance], flat[distance:]
        inside = (left >= 0) & (right >= 0)
        pairs = left[inside] * vocab_size + right[inside]
        counts.view(-1).index_add_(0, pairs, torch.full(pairs.shape, 1 / distance))
    counts += counts.T.clone()
    totals = counts.sum(1).clamp(min=1e-9)  # (V,)
    context = totals**smoothing  # rare contexts count for more than their share
    ratio = counts.div_(totals[:, None]).div_(context / context.sum())
    information = ratio.clamp_(min=1.0).log_()  # (V, V), positive pointwise mutual information
    u, s, _ = torch.svd_lowrank(information, q=dim + OVERSAMPLING, niter=3)
    vectors = u[:, :dim] * s[:dim].sqrt()
    return vectors / vectors.std()
