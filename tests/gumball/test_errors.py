"""The hierarchy of errors."""

import copy

import gumball
import pytest
from gumball import errors

KINDS = [getattr(errors, name) for name in errors.__all__ if name != "GumballError"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_reason_has_one_class(kind):
    """The class of a reason is the class that carries it."""
    assert type(errors.of_reason(kind.reason, "detail")) is kind


def test_an_unknown_reason_falls_back_on_the_status():
    """A newer service's reason is read as what the transport's status says, and without one is no answer to trust."""
    assert type(errors.of_reason("NEW", "detail", otherwise="OVERLOADED")) is errors.Overloaded
    assert type(errors.of_reason(None, "detail")) is errors.InvalidAnswer


@pytest.mark.parametrize("detail", ["no finite value", "logits[3]: no finite value"])
def test_an_error_names_its_field_once(detail):
    """Whether or not the service wrote it before the detail."""
    error = errors.of_reason("INVALID_ARGUMENT", detail, "logits[3]")
    assert str(error) == "logits[3]: no finite value"
    assert (error.detail, error.field) == ("no finite value", "logits[3]")


def test_an_error_without_a_field_is_its_detail():
    """An empty field is none."""
    error = errors.of_reason("UNAVAILABLE", "draining", "")
    assert (str(error), error.field) == ("draining", None)


def test_an_error_can_be_copied():
    """By the protocol of pickle, so that it crosses process boundaries whole."""
    error = copy.copy(errors.Overloaded("full", retry_after=0.5))
    assert (type(error), error.detail, error.field, error.retry_after) == (errors.Overloaded, "full", None, 0.5)


def test_an_invalid_argument_is_a_value_error():
    """Code that knows nothing of Gumball can catch it."""
    assert issubclass(errors.InvalidArgument, ValueError)


def test_the_public_names_exist():
    """What `__all__` lists can be imported, errors among it."""
    assert set(errors.__all__) <= set(gumball.__all__)
    assert all(hasattr(gumball, name) for name in gumball.__all__)
