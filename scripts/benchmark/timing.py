"""The floor of a step: seconds of a step's matrix products alone, at their shapes and dtype."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from analysis.timing import seconds_of, timed
from models.products import Product

Shape = tuple[int, int, int, int, bool, bool, bool]

_SHORTEST_SAMPLE_SECONDS = 1e-3
_INNER_CACHE_BYTES = 64 << 20
_MOST_OPERAND_SETS = 8


def operands(product: Product, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random operands, lying in memory as in the model, and a place for the result.

    Seen as (batch, rows, inner), (batch, inner, columns) and (batch, rows, columns); without an axis for a batch of 1.
    """
    leading = () if product.batch == 1 else (product.batch,)

    def stored(rows: int, columns: int, transposed: bool) -> Tensor:
        shape = (columns, rows) if transposed else (rows, columns)
        tensor = torch.randn(*leading, *shape, dtype=dtype, device=device)
        return tensor.mT if transposed else tensor

    left = stored(product.rows, product.inner, product.left_transposed)
    if product.left_shared and leading:
        left = left[:1].expand_as(left)
    right = stored(product.inner, product.columns, product.right_transposed)
    return left, right, torch.empty(*leading, product.rows, product.columns, dtype=dtype, device=device)


@torch.no_grad()
def product_seconds(product: Product, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Median seconds of one such product (of one, not of `count`)."""
    sizes = product.rows * product.inner + product.inner * product.columns + product.rows * product.columns
    nbytes = product.batch * sizes * dtype.itemsize
    # In a step every product finds activations that were not touched for a while, and between two uses of a weight
    # lie all others. So operands take turns, as many sets of them as an inner cache cannot keep. They and the result's
    # place exist beforehand: allocation is no part of a floor.
    sets = [
        operands(product, dtype, device) for _ in range(min(_MOST_OPERAND_SETS, math.ceil(_INNER_CACHE_BYTES / nbytes)))
    ]
    multiply = torch.mm if product.batch == 1 else torch.bmm

    def all_sets() -> None:
        for left, right, result in sets:
            multiply(left, right, out=result)

    seconds_of(all_sets, device)
    # A single small product is shorter than what a clock or a wait for the device costs.
    loops = max(1, math.ceil(_SHORTEST_SAMPLE_SECONDS / max(seconds_of(all_sets, device), 1e-9)))
    return timed(all_sets, repeats, device, loops).median / len(sets)


def measure_products(
    products: Iterable[Product], dtype: torch.dtype, device: torch.device, repeats: int
) -> dict[Shape, float]:
    """Median seconds of one product of each shape among `products`."""
    by_shape = {product.shape: product for product in products}
    return {shape: product_seconds(product, dtype, device, repeats) for shape, product in by_shape.items()}


def floor_seconds(products: Iterable[Product], seconds: dict[Shape, float]) -> float:
    """Sum over products of count x seconds of one, as `measure_products` gave them."""
    return sum(product.count * seconds[product.shape] for product in products)
