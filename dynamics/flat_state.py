"""States as pytrees: their leaves, one vector per example, and tangents in the layout in which they are pushed."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # private by name only: torch.func takes its pytrees from here

TANGENT_DTYPES = (torch.float32, torch.float64)


class StateLayout:
    """The structure of a state: any pytree of float32 or float64 tensors (B, ...).

    The flat vector of an example has D components: the leaves in the pytree's order (dicts: order of insertion), each
    in row-major order. Tangents are lists with one tensor (k, B, ...) per leaf: the k tangents of all examples are the
    rows of one matrix for every linear map that acts on the trailing axes.

    Args:
        state: an example of it.
        dtype: float32 or float64, to which `leaves` casts; None keeps the state's.
    Errors: ValueError for leaves that are no tensors, have no batch axis or different ones, lie on several devices,
        or are neither float32 nor float64 while `dtype` is None.
    """

    def __init__(self, state: Any, dtype: torch.dtype | None = None) -> None:
        paths, self._spec = pytree.tree_flatten_with_path(state)
        if not paths:
            raise ValueError("the state holds no tensor")
        self._names = [pytree.keystr(path) for path, _ in paths]
        leaves = [leaf for _, leaf in paths]
        for name, leaf in zip(self._names, leaves, strict=True):
            if not isinstance(leaf, Tensor):
                raise ValueError(f"state{name} is a {type(leaf).__name__}, expected a tensor with a batch axis")
            if leaf.ndim == 0:
                raise ValueError(f"state{name} has no axis, expected (B, ...)")
            if not leaf.is_floating_point():
                raise ValueError(f"state{name} is {leaf.dtype}, expected float32 or float64")
        self.batch_size = leaves[0].shape[0]
        self.device = leaves[0].device
        self.shapes = [tuple(leaf.shape) for leaf in leaves]
        if any(shape[0] != self.batch_size for shape in self.shapes):
            raise ValueError(f"the state's leaves have different batch axes: {self.shapes}")
        if any(leaf.device != self.device for leaf in leaves):
            raise ValueError(f"the state's leaves lie on several devices: {[str(leaf.device) for leaf in leaves]}")
        if dtype is None:
            dtypes = {leaf.dtype for leaf in leaves}
            if len(dtypes) > 1 or not dtypes <= set(TANGENT_DTYPES):
                names = ", ".join(sorted(map(str, dtypes)))
                raise ValueError(f"the state is {names}: tangents need float32 or float64, pass dtype=")
            dtype = leaves[0].dtype
        if dtype not in TANGENT_DTYPES:
            raise ValueError(f"dtype={dtype}: tangents are propagated in float32 or float64 only")
        self.dtype = dtype
        self.sizes = [leaf[0].numel() if self.batch_size else 0 for leaf in leaves]
        self.size = sum(self.sizes)
        if not self.size:
            raise ValueError(f"the state is empty: its leaves have the shapes {self.shapes}")

    def leaves(self, state: Any) -> list[Tensor]:
        """The leaves of a state of this structure in this layout's order and dtype.

        Errors: ValueError when the structure or a shape is another.
        """
        return [leaf.to(self.dtype) for leaf in self.matched_leaves(state)]

    def matched_leaves(self, state: Any) -> list[Tensor]:
        """`leaves` in whatever dtype they come; a dict whose keys were inserted in another order is sorted."""
        # Flattening costs as much as an operation on a small state.
        alone = self._spec.is_leaf() and isinstance(state, Tensor)
        leaves, spec = ([state], self._spec) if alone else pytree.tree_flatten(state)
        if spec != self._spec:
            by_name = {pytree.keystr(path): leaf for path, leaf in pytree.tree_flatten_with_path(state)[0]}
            if by_name.keys() != set(self._names):
                raise ValueError(
                    f"the map returns a state with the leaves {sorted(by_name)}, expected {sorted(self._names)}"
                )
            leaves = [by_name[name] for name in self._names]
        for name, leaf, shape in zip(self._names, leaves, self.shapes, strict=True):
            if not isinstance(leaf, Tensor) or tuple(leaf.shape) != shape:
                returned = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ValueError(f"the map returns state{name} as {returned}, expected shape {shape}")
        return leaves

    def state(self, leaves: Sequence[Tensor]) -> Any:
        """The pytree of these leaves."""
        return pytree.tree_unflatten(list(leaves), self._spec)

    def flatten(self, leaves: Sequence[Tensor]) -> Tensor:
        """Leaves (B, ...) as one vector per example: (B, D)."""
        return torch.cat([leaf.reshape(self.batch_size, -1) for leaf in leaves], dim=1)

    def unflatten(self, vectors: Tensor) -> list[Tensor]:
        """The leaves of vectors (B, D)."""
        pieces = vectors.split(self.sizes, dim=1)
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def split_tangents(self, tangents: Tensor) -> list[Tensor]:
        """Tangents (B, D, k) as one contiguous (k, B, ...) per leaf, in this layout's dtype and on its device."""
        return [view.contiguous() for view in self.tangent_views(tangents.to(self.device, self.dtype))]

    def tangent_views(self, tangents: Tensor) -> list[Tensor]:
        """Tangents (B, D, k) as one (k, B, ...) per leaf, which lies in memory as it did."""
        moved = tangents.permute(2, 0, 1)
        count = moved.shape[0]
        pieces = [moved] if len(self.sizes) == 1 else moved.split(self.sizes, dim=2)
        return [
            piece if len(shape) == 2 else piece.reshape(count, *shape)
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    def join_tangents(self, tangents: Sequence[Tensor]) -> Tensor:
        """Leaves (k, B, ...) as (B, D, k)."""
        flat = [leaf if leaf.ndim == 3 else leaf.reshape(leaf.shape[0], self.batch_size, -1) for leaf in tangents]
        return (flat[0] if len(flat) == 1 else torch.cat(flat, dim=2)).permute(1, 2, 0)

    def finite(self, leaves: Sequence[Tensor]) -> Tensor:
        """Which examples of leaves (B, ...) are finite throughout: (B,) bool."""
        # The largest size is NaN where anything is: two passes over memory, where isfinite takes four.
        flat = [leaf if leaf.ndim == 2 else leaf.flatten(1) for leaf in leaves]
        largest = [leaf.detach().abs().amax(dim=1) for leaf in flat]
        return (largest[0] if len(largest) == 1 else torch.stack(largest).amax(dim=0)) < torch.inf

    def surely_finite(self, leaves: Sequence[Tensor]) -> bool:
        """True where one look shows that all examples are finite; on a GPU, which it would keep waiting, never."""
        if self.device.type != "cpu":
            return False
        for leaf in leaves:
            if not math.isfinite(leaf.detach().sum().item()):  # a finite sum has no addend that is not
                return False
        return True
