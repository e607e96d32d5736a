"""Where a browser or a client on this machine finds the service."""


def url(host: str, port: int | str) -> str:
    """The URL of a service that listens on ``host``, which may stand for all addresses of the machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"http://[{host.replace('%', '%25')}]:{port}" if ":" in host else f"http://{host}:{port}"  # RFC 6874
