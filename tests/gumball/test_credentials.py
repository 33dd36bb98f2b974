"""What a client shows, and what it refuses to be given."""

import httpx
import pytest
from gumball import Client, InvalidArgument, Unavailable

LOGITS = [[0.5, 1.5, -0.5]]


def shown(**given) -> str | None:
    """The Authorization of a call."""
    seen = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(503)

    with (
        Client("http://gumball", http_transport=httpx.MockTransport(respond), **given) as client,
        pytest.raises(Unavailable),
    ):
        client.sample(LOGITS)
    return seen[0]


def test_a_token_is_that_of_the_call_before_that_of_the_environment(monkeypatch):
    """And whoever writes the header writes it."""
    assert shown() is None
    monkeypatch.setenv("GUMBALL_TOKEN", "of-the-environment")
    assert shown() == "Bearer of-the-environment"
    assert shown(token="given") == "Bearer given"  # noqa: S106
    assert shown(token="") is None
    assert shown(headers={"Authorization": "Basic x"}) == "Basic x"


@pytest.mark.parametrize("token", ["two words", "line\n", "näh"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    """Before a byte is sent; and the message does not tell it."""
    with pytest.raises(InvalidArgument, match="token") as raised:
        Client("http://gumball", token=token)
    assert token not in str(raised.value)


@pytest.mark.parametrize("address", ["http://gumball", "grpc://gumball", "local:", "http+unix:///gumball"])
def test_certificates_are_not_given_for_nothing(address):
    """A client that would speak in the clear says so."""
    with pytest.raises(InvalidArgument, match="address: ca, cert and key need https:// or grpcs://"):
        Client(address, ca="ca.pem")


@pytest.mark.parametrize("address", ["https://gumball", "grpcs://gumball"])
@pytest.mark.parametrize(
    "given", [{"ca": "missing"}, {"cert": "missing", "key": "missing"}, {"cert": "missing"}, {"key": "missing"}]
)
def test_files_that_are_not_there_are_named(address, given):
    """A certificate without its key, too."""
    with pytest.raises(InvalidArgument, match="|".join(given)):
        Client(address, **given)
