"""The order of the methods of a study, here and in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations, product

from mcir.tables.formatting import counted, signed
from mcir.tables.study import Study


def order_sentences(study: Study, task: str, means: Mapping[str, float]) -> list[str]:
    """Return the order of the methods here and in the paper, and where they differ."""
    if not study.paper:
        return []
    here = f"Order here: {' > '.join(f'{method} {means[method]:.2f}' for method in best_first(means))}."
    chains = [[[name for name in group if name in means] for group in chain] for chain in study.paper[task]]
    chains = [[group for group in chain if group] for chain in chains]
    known = [" > ".join(", ".join(group) for group in chain) for chain in chains if len(chain) > 1]
    pairs = [pair for chain in chains for first, second in combinations(chain, 2) for pair in product(first, second)]
    if not pairs:
        return [here]
    swapped = [(worse, better) for better, worse in pairs if not means[better] > means[worse]]
    text = f"Order in the paper: {'; '.join(known)}. {len(pairs) - len(swapped)} of "
    text += f"{counted(len(pairs), 'pair')} have the same order here"
    if swapped:
        text += f"; the others: {', '.join(f'{a} − {b} = {signed(means[a] - means[b], 3)} dB' for a, b in swapped)}"
    return [here, f"{text}."]


def best_first(means: Mapping[str, float]) -> list[str]:
    """Return the methods by decreasing mean; a method that diverged comes last."""
    return sorted(means, key=lambda method: -math.inf if math.isnan(means[method]) else means[method], reverse=True)
