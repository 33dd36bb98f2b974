"""The inside of our client, where a test can say what a name stands for."""

from collections.abc import Mapping, Sequence
from typing import Any

from gumball._balancer import Balancer, Service
from gumball._codec import SampleRequest
from gumball._credentials import Certificates
from gumball._grpc import GRPCService
from gumball._http import HTTPService
from gumball._places import Place


def request_of(logits: Any, mode: str, seed: int) -> SampleRequest:
    """That which a client makes of the call `sample(logits, mode=mode, seed=seed)`."""
    nothing = {"tau": None, "temperature": 1.0, "seeds": None, "draws": 1, "first_draw": 0, "first_row": 0}
    return SampleRequest.of(logits, mode=mode, seed=seed, outputs=None, **nothing)


def balancer_of(
    address: str, hosts: Sequence[str], headers: Mapping[str, str] | None = None, ca: str | None = None
) -> Balancer:
    """As a client's for the address, whose name stands for the hosts, whatever they are at the time."""

    def connect(place: Place) -> Service:
        if place.address.startswith("grpc"):
            return GRPCService(place.address, headers or {}, Certificates(ca), place.name)
        return HTTPService(place.address, headers or {}, None, Certificates(ca), place.name)

    async def resolve(host: str, port: int | None) -> Sequence[str]:
        return hosts

    return Balancer([address], connect, retries=3, resolve=resolve)
