"""The official way to answer: exactly halt_max_steps supervision steps from the initial state, q ignored."""

from training.inference.fixed import FixedInference


class OfficialInference(FixedInference):
    """Every row takes halt_max_steps steps; the answer is the argmax after the last."""

    name = "official"

    def __init__(self) -> None:
        super().__init__(None)
