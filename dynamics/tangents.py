"""Tangents pushed through a map: `vmap(jvp)` with the primal computed once, and the traps that make a JVP wrong.

Measured: a map with `detach` inside has JVP 0 there, silently, while one with `no_grad` inside has the right JVP;
fused attention has no forward derivative; under autocast tangents come back in bfloat16 without a warning; a compiled
map returns no tangents at all. `TangentMap` turns each of these into one clear error at its first application.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dynamics.central_differences import central_differences, one_direction
from dynamics.flat_state import StateLayout
from dynamics.trajectory import Map

_LOW_PRECISION = (torch.bfloat16, torch.float16)
# Up to this relative disagreement with finite differences a map that uses `detach` counts as differentiated in full.
_AGREEMENT = 1e-2


@contextmanager
def exact_arithmetic(differentiable: bool = False) -> Iterator[None]:
    """What tangents need: math attention (the fused kernels have no JVP), no TF32, no graph unless asked for.

    Errors: ValueError under autocast, which would compute them in lower precision.
    """
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            raise ValueError("autocast is on: tangents would be computed in lower precision; leave its context")
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def push_tangents(
    advance: Map, layout: StateLayout, leaves: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """F(z) and the k tangents DF(z) t_i, with F evaluated once.

    Nothing is checked; `TangentMap` is what others should call.

    Args:
        leaves: the state's (B, ...). tangents: by leaf, (k, B, ...). Either may be expanded views, as initial states
            are.
    Returns:
        The leaves of F(z), and of its tangents, in the layout's order.
    """

    def on_leaves(*primals: Tensor) -> tuple[Tensor, ...]:
        return tuple(layout.matched_leaves(advance(layout.state(primals))))

    def one_tangent(*directions: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        with _KnownRules():
            primal, pushed, *_ = torch.func.jvp(on_leaves, tuple(leaves), directions)
        return primal, pushed

    # Dual numbers are written to, which torch refuses where elements share their memory.
    leaves = [leaf.contiguous() for leaf in leaves]
    tangents = [leaf.contiguous() for leaf in tangents]

    # None among out_dims says that the primal is the same for all tangents; torch's type stubs do not know it.
    per_output: Any = (None, 0)
    primal, pushed = torch.func.vmap(one_tangent, out_dims=per_output)(*tangents)
    return list(primal), list(pushed)


_Operation = Callable[..., Any]
_SUMS: tuple[_Operation, ...] = (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__)
_PRODUCTS: tuple[_Operation, ...] = (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__)
_MATRIX_PRODUCTS: tuple[_Operation, ...] = (
    *(torch.bmm, torch.mm, torch.matmul, torch.Tensor.bmm, torch.Tensor.mm, torch.Tensor.matmul),
    *(torch.Tensor.__matmul__, torch.Tensor.__rmatmul__),
)
# Operations by the operands of which they are linear functions while the others stand still.
_LINEAR: dict[_Operation, tuple[int, ...]] = {
    torch.nn.functional.linear: (0,),
    **dict.fromkeys((*_MATRIX_PRODUCTS, *_PRODUCTS), (0, 1)),
    **dict.fromkeys((torch.div, torch.Tensor.div, torch.Tensor.__truediv__), (0,)),
    **dict.fromkeys(_SUMS, (0, 1)),
}


def _silu_derivative(value: Tensor, result: Tensor) -> Tensor:
    gate = value.sigmoid()
    return gate + result * (1 - gate)


# Functions of one number, with their derivatives from it and the result.
_DERIVATIVES: dict[_Operation, Callable[[Tensor, Tensor], Tensor]] = {
    # torch's rule for a square goes through a power of 1.
    **dict.fromkeys((torch.square, torch.Tensor.square), lambda value, _: 2 * value),
    torch.nn.functional.silu: _silu_derivative,
}
_NOT_IN_PLACE = {"inplace": False}


class _KnownRules(TorchFunctionMode):
    """Operations whose tangents cost less than by torch's own rules, by the same derivative.

    Where one operand moves, and the result is linear in it, the tangent is the operation on the tangent. torch's rules
    add the other operand's part, x @ 0 or x * 0: for products a whole one that costs as much as the primal's, else a
    detour through kernels in Python that costs more than a short product. Where both factors move, the sum is made in
    one pass over memory. Derivatives by one number are computed of the primal alone, not anew with each tangent.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        derivative = _DERIVATIVES.get(func)
        if derivative is not None and len(args) == 1 and (kwargs or _NOT_IN_PLACE) == _NOT_IN_PLACE:
            return self._of_one_number(func, args[0], derivative)
        places = _LINEAR.get(func, ()) if len(args) >= 2 and not kwargs else ()
        if places:
            # Looked at once: under vmap and jvp a look costs as much as a short product.
            duals = [forward_ad.unpack_dual(value) if isinstance(value, Tensor) else None for value in args]
            moving = [place for place, dual in enumerate(duals) if dual is not None and dual.tangent is not None]
            if len(moving) == 1 and moving[0] in places:
                place = moving[0]
                dual = duals[place]
                assert dual is not None
                return self._of_one_operand(func, list(args), place, dual.primal, dual.tangent)
            if len(moving) == 2 and func in _PRODUCTS and args[0].dtype == args[1].dtype:
                (a, da), (b, db) = duals  # type: ignore[misc]
                return forward_ad.make_dual(a * b, torch.addcmul(da * b, a, db))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _of_one_number(func: _Operation, value: Tensor, derivative: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        primal, tangent = forward_ad.unpack_dual(value)
        result = func(primal)
        if tangent is None:
            return result  # type: ignore[no-any-return]
        return forward_ad.make_dual(result, tangent * derivative(primal, result))

    @staticmethod
    def _of_one_operand(func: _Operation, args: list[Any], place: int, primal: Tensor, tangent: Any) -> Tensor:
        """The dual number: an addend and a bias, which stands third, have no part in the tangent."""
        operands = args[:2]
        args[place], operands[place] = primal, tangent
        result = func(*args)
        if func not in _SUMS:
            return forward_ad.make_dual(result, func(*operands))
        moved = tangent.expand(result.shape).to(result.dtype, copy=True)  # what is written into one stays there
        return forward_ad.make_dual(result, moved)


class TangentMap:
    """A map on leaves that carries tangents along; watched at its first application.

    Errors: ValueError when the map returns another structure, shape or precision, computes in lower precision inside,
        or hides part of its dependence on the state from differentiation (`detach`, `.data`, a compiled map).
        Whether something that looks hidden matters is decided by a central difference along a random direction, at
        each application as long as something looks hidden, so that a constant leaf or a detached value that is only
        logged passes.
    """

    def __init__(self, advance: Map, layout: StateLayout) -> None:
        self._advance = advance
        self._layout = layout
        self._watched = False

    def __call__(self, leaves: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As `push_tangents`."""
        if self._watched:
            return push_tangents(self._advance, self._layout, leaves, tangents)
        watch = _Watch()

        def watched(state: Any) -> Any:
            with watch:
                result = self._advance(state)
            if any(not _has_tangent(leaf) for leaf in self._layout.matched_leaves(result)):
                watch.suspects.add("a part of its result carries no tangent")
            return result

        primal, pushed = push_tangents(watched, self._layout, leaves, tangents)
        self._check_precision(watch, primal, pushed)
        if not watch.suspects:
            self._watched = True
        elif bool((disagreement(self._advance, self._layout, leaves) > _AGREEMENT).any()):
            raise ValueError(
                f"the map hides part of its state from differentiation ({', '.join(sorted(watch.suspects))}): its JVP "
                "is not the derivative that finite differences see; pass a map without it"
            )
        return primal, pushed

    def _check_precision(self, watch: "_Watch", primal: list[Tensor], pushed: list[Tensor]) -> None:
        expected = self._layout.dtype
        for leaf in (*primal, *pushed):
            if leaf.dtype != expected:
                raise ValueError(f"the map turns {expected} states and tangents into {leaf.dtype}: keep its precision")
        if watch.low_precision:
            raise ValueError(
                f"the map computes in {watch.low_precision} inside ({watch.low_precision_where}): tangents need "
                "float32 or float64 throughout"
            )


def disagreement(advance: Map, layout: StateLayout, leaves: Sequence[Tensor]) -> Tensor:
    """How far the JVP is from a central difference along a random direction, relative to the larger: (B,) float64.

    Largest over the leaves. Differences below what rounding allows, and examples that are not finite, count as 0.
    Costs five applications of the map.
    """
    norm = torch.linalg.vector_norm
    direction = one_direction(layout)
    _, pushed = push_tangents(advance, layout, leaves, layout.split_tangents(direction[:, :, None]))
    worst = torch.zeros(layout.batch_size, dtype=torch.float64, device=layout.device)
    for (expected, noise, _), tangent in zip(
        central_differences(advance, layout, leaves, direction), pushed, strict=True
    ):
        derivative = tangent[0].double().reshape(layout.batch_size, -1)
        error = norm(expected - derivative, dim=1)
        relative = error / torch.maximum(norm(expected, dim=1), norm(derivative, dim=1))
        worst = torch.maximum(worst, torch.where(error > noise, relative, 0.0).nan_to_num(nan=0.0))
    return worst


class _Watch(TorchFunctionMode):
    """What is seen while a map is applied for the first time, with every torch function that it calls looked at."""

    _HIDING = ("detach", "detach_", ".data")

    def __init__(self) -> None:
        super().__init__()
        self.suspects: set[str] = set()
        self.low_precision: torch.dtype | None = None
        self.low_precision_where = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            name = ".data"
        if name in self._HIDING and _has_tangent(args[0]):
            self.suspects.add(name)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype in _LOW_PRECISION and _has_tangent(result):
            self.low_precision, self.low_precision_where = result.dtype, name
        return result


def _has_tangent(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
