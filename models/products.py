"""A matrix product of a supervision step: its shape, how often it is made, and its operations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """`count` equal products of a step: `batch` pairs of matrices, (rows x inner) @ (inner x columns) each.

    Args:
        name: the parameter or the part of attention that it belongs to, and for gradients which one.
        left_transposed: the left operand lies in memory as (inner, rows), a weight gradient's `g.T @ x` for one.
        right_transposed: the right operand lies in memory as (columns, inner), as the weight of a linear map.
    """

    name: str
    count: int
    batch: int
    rows: int
    inner: int
    columns: int
    left_transposed: bool = False
    right_transposed: bool = False

    @property
    def flops(self) -> int:
        """Operations of all `count` products, a multiplication and an addition per term."""
        return 2 * self.count * self.batch * self.rows * self.inner * self.columns

    @property
    def shape(self) -> tuple[int, int, int, int, bool, bool]:
        """What its time depends on: equal for products that only differ in name or count."""
        return self.batch, self.rows, self.inner, self.columns, self.left_transposed, self.right_transposed


def total_flops(products: list[Product]) -> int:
    """Operations of a list of products."""
    return sum(product.flops for product in products)


def linear_products(
    name: str, rows: int, features_in: int, features_out: int, forward: int, backward: int
) -> list[Product]:
    """x @ W.T, and g @ W, g.T @ x for its gradients; W is stored as (out, in), x is (rows, in)."""
    products = [Product(name, forward, 1, rows, features_in, features_out, right_transposed=True)]
    if backward:
        weight = Product(f"{name} weight gradient", backward, 1, features_out, rows, features_in, left_transposed=True)
        products += [Product(f"{name} input gradient", backward, 1, rows, features_out, features_in), weight]
    return products
