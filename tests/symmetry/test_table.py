import jax
import jax.numpy as jnp
import pytest

from jaxfuse.symmetry import Symmetry, TensorAxes, infer_chain
from jaxfuse.symmetry.table import table
from tests.symmetry.networks import torch_state

MLP = {
    f"dense{k}": {"kernel": jnp.ones(s), "bias": jnp.ones(s[1])}
    for k, s in enumerate([(784, 512), (512, 512), (512, 256), (256, 10)])
}


def test_three_hidden_layers():
    assert table(infer_chain(MLP)).splitlines() == [
        "group   units  leaves",
        "dense0    512  dense0/kernel[1], dense1/kernel[0], dense0/bias[0]",
        "dense1    512  dense1/kernel[1], dense2/kernel[0], dense1/bias[0]",
        "dense2    256  dense2/kernel[1], dense3/kernel[0], dense2/bias[0]",
        "",
        "3 groups, 1280 units, 7 leaves: 10^2840 orders of the units compute the same",
    ]


def test_method_is_the_function():
    symmetry = infer_chain(MLP)
    assert symmetry.table() == table(symmetry)
    assert symmetry.table(width=60, groups=1, leaves=1, pins=1) == table(
        symmetry, width=60, groups=1, leaves=1, pins=1
    )


def test_statistics_have_a_star_and_layers_one_entry():
    params, _, _ = torch_state()
    params = {f"params/{path.replace('.', '/')}": leaf for path, leaf in params.items()}
    text = " ".join(table(infer_chain(params)).split())
    assert "conv1/(weight, bias)[0], fc1/weight[1], " in text
    assert "bn1/(bias, running_mean*, running_var*, weight)[0]" in text
    assert "params" not in text


HEADS = Symmetry(
    (("heads", 4), ("units", 8), ("state", 6)),
    (
        TensorAxes("q/kernel", (5, 4, 8), (None, "heads", "units"), pins=("input", None, None)),
        TensorAxes("cell/kernel", (6, 6), ("state", "state")),
        TensorAxes("qkv/w", (5, 4, 8), (None, "heads", "units"), index=(None, ((0, 32, 1),))),
        TensorAxes("cat/w", (6, 2), ("state", None), index=(((3, 6, 1),), None)),
        TensorAxes("cat/w", (6, 3), ("state", None), index=(((3, 6, 1),), ((2, 3, 2),))),
        TensorAxes("cut/w", (6,), ("state",), index=(((0, 2, 1), (4, 2, 3), (12, 2, 1)),)),
    ),
    (("units", ("heads",)),),
    (("input", 5, "input"), *((f"tap{k}", 3, "window of a convolution") for k in range(16))),
)


def test_contexts_quadratic_groups_and_blocks():
    assert table(HEADS).splitlines() == [
        "group  units                    leaves",
        "heads      4                    q/kernel[1], qkv/w{:, 0:32}[1]",
        "units  4 x 8  in each of heads  q/kernel[2], qkv/w{:, 0:32}[2]",
        "state      6  quadratic         cell/kernel[0, 1], cat/w[0 at 3:9], "
        "cut/w[0 at 0:2+4:10:3+...]",
        "",
        "pinned because           axes",
        "input                    input (5)",
        "window of a convolution  tap0 (3), tap1 (3), tap2 (3), tap3 (3), ... and 12 more",
        "",
        "3 groups, 42 units, 5 leaves, 17 pinned axes: "
        "10^22.7 orders of the units compute the same",
    ]


def test_long_tables_are_cut():
    symmetry = Symmetry(
        tuple((f"g{k}", 4) for k in range(70)),
        tuple(TensorAxes(f"layer{k}/{n}", (4,), ("g0",)) for k in range(9) for n in "ab"),
    )
    lines = table(symmetry).splitlines()
    assert "... and 10 more groups" in lines
    assert sum(line.startswith("g") for line in lines) == 61
    joined = " ".join(lines)
    assert "layer3/(a, b)[0], ... and 5 more" in joined
    assert "layer4" not in joined
    assert len(table(symmetry, groups=3, leaves=1).splitlines()) == 7


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_width_is_kept(width):
    symmetry = Symmetry(
        (("encoder/layers/11/attention/" * 3, 12),),
        (TensorAxes("a" * 150, (12,), ("encoder/layers/11/attention/" * 3,)),),
        pinned=(("p" * 200, 3, "because " * 20),),
    )
    lines = table(symmetry, width=width).splitlines()
    assert max(map(len, lines[:-1])) <= width
    assert "".join(lines).count("a" * 10) > 3


def test_names_are_not_taken_for_markup_or_colours(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    symmetry = Symmetry(
        (("[bold]g[/bold]", 2), (":smile:", 2)), (TensorAxes("w", (2,), ("[bold]g[/bold]",)),)
    )
    text = table(symmetry)
    assert "[bold]g[/bold]" in text
    assert ":smile:" in text
    assert text.isascii()
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("pinned", "ending"),
    [
        ((), "nothing can be permuted: no groups, 0 pinned axes"),
        ((("x", 3, "input"),), "nothing can be permuted: no groups, 1 pinned axis"),
    ],
    ids=["none", "pinned"],
)
def test_no_groups(pinned, ending):
    lines = table(Symmetry((), (), pinned=pinned)).splitlines()
    assert lines[-1] == ending
    assert ("input           x (3)" in lines) == bool(pinned)


def test_shapes_suffice():
    shapes = jax.eval_shape(lambda: MLP)
    assert table(infer_chain(shapes)) == table(infer_chain(MLP))
