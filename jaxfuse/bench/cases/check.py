"""What `make bench-check` runs: a few small cases of every kind, whose ratios are stored."""

from jaxfuse.bench.cases import align, assignment, gaussian, many, sinkhorn
from jaxfuse.bench.contest import Case


def cases(quick: bool = True) -> list[Case]:
    """Return the cases, the same whether quick or not."""
    del quick
    return [
        sinkhorn.case(256, None),
        sinkhorn.case(64, 64),
        assignment.host_case(256),
        assignment.batch_case(128),
        assignment.device_case(64),
        gaussian.case(32),
        align.steady_case("mlp 64-3x64-10"),
        align.steady_case("resnet20"),
        align.graph_case(16),
        many.case("mlp 64-2x64-10", 4),
    ]
