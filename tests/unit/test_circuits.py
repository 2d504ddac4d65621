import pytest

from clock import Clock
from runstream.gateway.circuits import Circuits
from runstream.gateway.routes import Target
from runstream.metrics import CIRCUITS_OPEN

TARGET, OTHER = Target("local", "m"), Target("local", "n")


@pytest.fixture
def circuits(clock: Clock) -> Circuits:
    return Circuits(now=clock)


def fail(circuits: Circuits, times: int) -> None:
    for _ in range(times):
        circuits.failed(TARGET)


def shown() -> set[tuple[str, ...]]:
    """Of these tests' provider: others' gateways count in the same process."""
    labels = [tuple(sample.labels.values()) for metric in CIRCUITS_OPEN.collect() for sample in metric.samples]
    return {each for each in labels if TARGET.provider in each}


def test_five_failures_in_a_row_open_a_targets_circuit_and_no_others(circuits: Circuits) -> None:
    fail(circuits, 4)
    assert circuits.admits(TARGET)
    fail(circuits, 1)
    assert not circuits.admits(TARGET)
    assert circuits.admits(OTHER)
    assert shown() == {("local", "m")}
    circuits.answered(TARGET)
    assert shown() == set()


def test_failures_with_an_answer_between_them_are_not_in_a_row(circuits: Circuits) -> None:
    fail(circuits, 4)
    circuits.answered(TARGET)
    fail(circuits, 4)
    assert circuits.admits(TARGET)


def test_when_its_time_is_over_one_call_at_a_time_is_a_trial(circuits: Circuits, clock: Clock) -> None:
    fail(circuits, 5)
    clock.now += 10
    assert circuits.admits(TARGET)
    assert not circuits.admits(TARGET)
    circuits.left(TARGET)
    assert circuits.admits(TARGET), "the trial was given up: another may be made"
    circuits.answered(TARGET)
    assert all(circuits.admits(TARGET) for _ in range(3))


def test_each_failed_trial_doubles_the_time_up_to_a_minute(circuits: Circuits, clock: Clock) -> None:
    fail(circuits, 5)
    for seconds in (10, 20, 40, 60, 60):
        clock.now += seconds - 0.1
        assert not circuits.admits(TARGET)
        clock.now += 0.1
        assert circuits.admits(TARGET)
        circuits.failed(TARGET)
    circuits.answered(TARGET)


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_its_time(circuits: Circuits, clock: Clock) -> None:
    fail(circuits, 50)
    clock.now += 10
    assert circuits.admits(TARGET)
    circuits.answered(TARGET)


def test_no_more_than_a_thousand_targets_are_remembered(circuits: Circuits) -> None:
    for number in range(1100):
        for _ in range(5):
            circuits.failed(Target("local", str(number)))
    assert len(shown()) == 1000
    for number in range(100, 1100):
        circuits.answered(Target("local", str(number)))
    assert shown() == set()
