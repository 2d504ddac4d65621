import pytest

from runstream.domain.errors import InvalidField
from runstream.gateway.routes import Routes, Target


def test_a_star_in_a_target_stands_for_what_was_asked_for() -> None:
    routes = Routes({"*": ["gpu/org/*", "gpu/x"]}, ["gpu"])
    assert routes.targets("m") == [Target("gpu", "org/m"), Target("gpu", "x")]


def test_a_name_that_is_too_long_to_be_kept_once_it_is_a_targets_is_refused() -> None:
    """An end that names it could not be written."""
    routes = Routes({"*": ["gpu/org/*"]}, ["gpu"])
    assert routes.targets("m" * 252) == [Target("gpu", "org/" + "m" * 252)]
    with pytest.raises(InvalidField):
        routes.targets("m" * 253)


def test_a_name_for_which_no_model_is_configured_is_refused() -> None:
    with pytest.raises(InvalidField):
        Routes({"fast": ["gpu/x"]}, ["gpu"]).targets("slow")
