"""The client as the proxies of ``TRUSTED_PROXIES`` report it."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from litestar.types import ASGIApp, Receive, Send

Address = IPv4Address | IPv6Address

# Entries of X-Forwarded-For that are read, from the right. No chain of proxies is longer.
_MAX_ENTRIES: Final = 32
_MAPPED_BITS: Final = 96  # the length of ::ffff:0:0/96, which holds the IPv4 addresses
_MAX_LENGTH: Final = 60  # of an entry; the longest address with brackets and a port has 53 characters


def parse_proxies(text: str) -> tuple[str, ...]:
    """Addresses and networks (CIDR), separated by commas, in their normal form. Raises ``ValueError``."""
    return tuple(str(_parse_network(entry)) for entry in map(str.strip, text.split(",")) if entry)


def _parse_network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} is not an address, and not a network such as 10.0.0.0/8") from None
    if "/" in entry and network.network_address != ip_address(entry.partition("/")[0]):
        raise ValueError(f"{entry!r} is an address within a network: write {network}, or the address alone")
    first, bits = _unmapped(network.network_address), network.prefixlen - _MAPPED_BITS
    return IPv4Network((first, bits)) if first != network.network_address and bits >= 0 else network


class ForwardedHeaders:
    """Sets ``client`` and ``scheme`` of the scope to what a trusted proxy says.

    uvicorn's ``ProxyHeadersMiddleware`` also takes a word for an address (``unknown``), does not find
    ``::ffff:10.0.0.1`` in 10.0.0.0/8, and reads lists of any length.
    """

    def __init__(self, app: ASGIApp, trusted: Iterable[str]) -> None:
        """``trusted`` are networks in CIDR notation."""
        self.app = app
        self._networks = [ip_network(network) for network in trusted]
        self._trusts = lru_cache(1024)(self._is_trusted)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["client"]:
            peer = _parse(scope["client"][0])
            if peer and self._trusts(peer):
                self._believe(scope)
        await self.app(scope, receive, send)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _believe(self, scope: Any) -> None:
        forwarded = []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                forwarded.append(value.decode("latin-1"))
            elif name == b"x-forwarded-proto":
                # The last one counts, as the nearest proxy appends its own behind those of others.
                scheme = value.rpartition(b",")[2].strip().lower()
                scope["scheme"] = "https" if scheme == b"https" else "http"
        if client := self._client(",".join(forwarded)):
            scope["client"] = (str(client), 0)

    def _client(self, forwarded: str) -> Address | None:
        """Walk the list from the right, as each proxy appends the address of its own client.

        The client is the first address that is no trusted proxy. What is left of it may be invented. An entry that is
        no address ends the walk, and the client is the proxy that appended it.
        """
        client = None
        # What exceeds the limit stays in one piece, which is not an address.
        for entry in reversed(forwarded.rsplit(",", _MAX_ENTRIES)):
            if (address := _parse(entry)) is None:
                break
            client = address
            if not self._trusts(address):
                break
        return client


def _parse(entry: str) -> Address | None:
    """The address of an entry, which may have a port: ``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    text = entry.strip()
    if len(text) > _MAX_LENGTH or "%" in text:  # a zone is known only to the proxy
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return _unmapped(address)


def _unmapped(address: Address) -> Address:
    """The IPv4 address of ``::ffff:192.0.2.1``, as a socket for IPv6 writes it."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
