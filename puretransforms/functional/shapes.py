"""Shape annotations: checked at every call in the tests, plain comments in production.

With jaxtyping installed (the test extra), ``Float[Tensor, "b c h w"]`` is a type that the test run enforces.
Without it the same expression is just ``Tensor``, so the library does not depend on it.
"""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = UInt8 = _Unchecked

Images = Float[Tensor, "b c h w"]  # in [0, 1]
Pixels = UInt8[Tensor, "b c h w"]
Labels = Int[Tensor, " b"]

__all__ = ["Bool", "Float", "Images", "Int", "Labels", "Pixels", "Tensor", "UInt8"]
