"""Random symmetries for property tests."""

from hypothesis import strategies as st

from jaxfuse.symmetry.axes import Activation, TensorAxes
from jaxfuse.symmetry.spec import Symmetry

names = st.text(min_size=1, max_size=6)
small = st.integers(0, 9)
runs = st.tuples(small, st.integers(1, 5), st.integers(-3, 3))


@st.composite
def arrays(draw, groups, pins):
    """Draw a block with axes that carry the groups and pins that exist."""
    axes = draw(
        st.lists(
            st.sampled_from([*groups.items(), *((None, pin) for pin in pins), (None, None)]),
            max_size=4,
        )
    )
    ndim = len(axes)
    sizes, carried, pinned = [], [], []
    for name, value in axes:
        sizes.append(value if name is not None else draw(small))
        carried.append(name)
        pinned.append(value if name is None else None)
    of_axes = st.integers(0, ndim - 1) if ndim else st.nothing()
    return TensorAxes(
        draw(names),
        tuple(sizes),
        tuple(carried),
        tuple(sorted(draw(st.sets(of_axes)))) if ndim else (),
        draw(st.booleans()),
        draw(st.none() | of_axes),
        tuple(pinned) if any(pinned) else (),
        tuple(draw(st.lists(st.none() | st.lists(runs).map(tuple), max_size=3))),
    )


@st.composite
def symmetries(draw):
    """Draw a symmetry whose names and sizes agree."""
    everything = draw(st.lists(names, unique=True, max_size=6))
    count = draw(st.integers(0, len(everything)))
    groups = {name: draw(small) for name in everything[:count]}
    pinned = tuple((name, draw(small), draw(st.text(max_size=8))) for name in everything[count:])
    blocks = arrays(groups, [name for name, _, _ in pinned])
    return Symmetry(
        tuple(groups.items()),
        tuple(draw(st.lists(blocks, max_size=4))),
        tuple(
            (name, tuple(draw(st.lists(st.sampled_from(everything), min_size=1, max_size=2))))
            for name in draw(st.sets(st.sampled_from(list(groups)) if groups else st.nothing()))
        ),
        pinned,
        tuple(
            Activation(draw(st.sampled_from(("input", "output"))), block)
            for block in draw(st.lists(blocks, max_size=2))
        ),
    )
