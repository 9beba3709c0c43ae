"""The threads of NumPy's matrix products, which a busy machine turns from a help into a burden."""

from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

_BLAS = ThreadpoolController()


def blas_threads(count: int | None) -> AbstractContextManager:
    """Limit the threads of BLAS inside a block; None leaves them as they are."""
    return _BLAS.limit(limits=count, user_api="blas")
