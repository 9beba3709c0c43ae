import numpy as np
import pytest

from jaxfuse.bench import peers
from jaxfuse.bench.cases import SUITES
from jaxfuse.bench.ceilings import Work
from jaxfuse.bench.contest import Absent, Case, Contestant, measure
from jaxfuse.bench.record import Report
from jaxfuse.bench.run import run, select
from jaxfuse.bench.timing import Plan

PLAN = Plan(repeats=2, least=1, shortest=0.0)


def case(*entries, **options) -> Case:
    return Case("task/n=4", lambda: list(entries), axis="n", size=4, **options)


def contestant(name, result=1.0, **options):
    return Contestant(name, lambda: result, lambda found: {"objective": found}, **options)


def test_rows_have_ratio_quality_and_shares():
    work = Work(flops=10.0)
    ours, peer = measure(
        case(contestant("jaxfuse", work=work), contestant("peer", 2.0)), "s", {"flops": 1e9}, PLAN
    )
    assert ours.ratio is None
    assert peer.ratio is not None
    assert (ours.quality, peer.quality) == ({"objective": 1.0}, {"objective": 2.0})
    assert set(ours.rates) == set(ours.shares) == {"flops"}
    assert ours.shares["flops"] == pytest.approx(ours.rates["flops"] / 1e9)
    assert (ours.series, ours.size, ours.rounds) == ("task", 4, 2)


def test_reach_is_asked_for_the_rivals_objective():
    asked = []
    ours = contestant("jaxfuse", reach=lambda target: asked.append(target) or 0.5)
    never = contestant("other", reach=lambda target: None)
    rows = measure(case(ours, never, contestant("loop", 7.0), rival="loop"), "s", {}, PLAN)
    assert asked == [7.0]
    assert rows[0].reach == 0.5
    assert rows[1].reach is None
    assert "not reached" in rows[1].note


def test_absent_peers_say_what_they_need(monkeypatch):
    monkeypatch.setitem(peers.MODULES, "lapx", "no_such_module")
    entry = peers.enter("lapx", "lapx", lambda: pytest.fail("made"), lambda found: {})
    assert isinstance(entry, Absent)
    _, row = measure(case(contestant("jaxfuse"), entry), "s", {}, PLAN)
    assert row.seconds is None
    assert "jaxfuse[bench]" in row.note
    assert "lapx" in row.note


def test_a_peer_that_cannot_hold_a_size_says_how_much_it_is():
    assert peers.dense_affinity(8) is None
    needs = peers.dense_affinity(200)
    assert needs == "needs a dense affinity of 200^2 x 200^2 floats: 6.4 GB"
    entry = peers.enter("POT", "POT", lambda: pytest.fail("made"), lambda found: {}, needs=needs)
    assert entry == Absent("POT", needs)


def test_known_cases_are_not_run_again():
    told = []
    report = Report({}, "today", True).plus("s", "task/n=4", [])
    known = case(contestant("jaxfuse"))
    fresh = Case("other", lambda: [contestant("jaxfuse")])
    done = run([("s", known), ("s", fresh)], report, lambda *now: told.append(now[1]), PLAN)
    assert done.done == (("s", "task/n=4"), ("s", "other"))
    assert [row.case for row in done.rows] == ["other"]
    assert told == ["s: task/n=4", "s: other", ""]


def test_a_case_that_fails_is_told_and_tried_again():
    broken = Case("broken/n=1", lambda: 1 / 0)
    selected = [("s", broken), ("s", case(contestant("jaxfuse")))]
    report = run(selected, Report({}, "today", True), lambda *now: None, PLAN)
    assert "ZeroDivisionError" in report.rows[0].note
    assert report.done == (("s", "task/n=4"),)


def test_selection_names_what_there_is():
    assert [c.name for c in select("kernels", True, "*hungarian/n=32")] == ["hungarian/n=32"]
    with pytest.raises(ValueError, match=r"'zebra'.*kernels, align"):
        select("zebra", True, "*")
    with pytest.raises(ValueError, match=r"'zebra'.*hungarian/n=32"):
        select("kernels", True, "zebra")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("quick", [True, False])
def test_names_are_unique(suite, quick):
    names = [c.name for c in select(suite, quick, "*")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "solve", [peers.scipy_assignment, peers.lapx_assignment, peers.optax_assignment]
)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_assignments_of_peers_agree(solve, batch):
    if solve is peers.lapx_assignment and peers.missing("lapx"):
        pytest.skip("lapx is not installed")
    scores = np.random.default_rng(0).normal(size=(*batch, 6, 6)).astype(np.float32)
    assert (np.asarray(solve(scores)()) == peers.scipy_assignment(scores)()).all()
