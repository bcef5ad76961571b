"""Learning rate as a pure function of the update number."""

import math


def learning_rate(step: int, base: float, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Linear warm-up from 0, then half a cosine down to `min_ratio * base`.

    Args:
        step: 1 for the first update, as officially (the counter moves before the rate is read).
        total_steps: planned updates; beyond them the rate stays at its minimum.
            Differs: upstream's cosine would rise again.
    """
    if step < warmup_steps:
        return base * step / max(1, warmup_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return base * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
