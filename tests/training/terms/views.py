"""Views that a test makes by hand, for terms that look at a part of them."""

from typing import Any

import torch

from training.terms.base import View


def view_of(**parts: torch.Tensor | None) -> View:
    """A view with these parts; the others are empty, and no row has a weight."""
    empty: dict[str, Any] = dict.fromkeys(View.__dataclass_fields__, torch.zeros(0))
    return View(**{**empty, "q_continue": None, "weights": None, "rows": {}, **parts})
