"""The time from which a replica counts as lost, and its runs may be another's; without a store."""

from proxy.replicas.lease import LOST_S, FailureDetector

ALIVE, SILENT = {"one": b"1"}, {"one": None}


def test_a_replica_without_a_lease_is_lost_after_a_while() -> None:
    """Not before `LOST_S`, and no longer once it has renewed its lease."""
    detector = FailureDetector()
    detector.observe(SILENT, 10.0)
    detector.observe(SILENT, 10.0 + LOST_S - 0.1)
    assert not list(detector.lost(10.0 + LOST_S - 0.1))
    detector.observe(SILENT, 11.0 + LOST_S)
    assert list(detector.lost(11.0 + LOST_S)) == [("one", 1.0)]
    detector.observe(ALIVE, 12.0 + LOST_S)

    assert not list(detector.lost(99.0))


def test_no_replica_is_lost_for_the_time_that_the_store_was_down() -> None:
    """A lease that nobody could renew proves nothing: the wait begins anew."""
    detector = FailureDetector()
    detector.observe(SILENT, 10.0)
    detector.observe_nothing(["one"])
    detector.observe(SILENT, 10.0 + LOST_S)

    assert not list(detector.lost(10.0 + LOST_S))


def test_a_replica_that_is_back_is_suspected_until_its_runs_are_known() -> None:
    """After a silence of its own, and after one of the store: others may have taken over its runs."""
    detector = FailureDetector()
    for notice in (lambda: detector.observe(SILENT, 10.0), lambda: detector.observe_nothing(["one"])):
        notice()
        detector.observe(ALIVE, 11.0)
        assert detector.returned() == {"one"}
        detector.trust("one")

        assert not detector.returned()
