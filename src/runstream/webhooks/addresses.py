"""Which addresses are of the internet, and not of whoever runs this: requests on behalf of tenants go nowhere else."""

from ipaddress import IPv4Network, IPv6Network, ip_address

_NOT_PUBLIC = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; 0.0.0.0 reaches this machine
            "10.0.0.0/8",
            "100.64.0.0/10",  # carriers', and metadata in Alibaba's cloud
            "127.0.0.0/8",
            "168.63.129.16/32",  # metadata in Azure, of Microsoft's public range
            "169.254.0.0/16",  # link-local, and metadata in most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocols', and metadata in Oracle's cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays to 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
"""https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast: `ipaddress` has another answer with each
release of Python, and calls multicast global."""
_UNICAST = IPv6Network("2000::/3")
"""All that is given out of IPv6. Outside of it are loopback, link-local, unique local and multicast addresses, and
those that stand for one of IPv4's: mapped ones, and NAT64's."""
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols', Teredo among them, which stands for addresses of IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which stands for addresses of IPv4
            "3fff::/20",  # documentation
        ),
    )
)
"""https://www.iana.org/assignments/iana-ipv6-special-registry."""


def is_public(address: str) -> bool:
    """Raises ValueError where it is no address. One of IPv6 may have a scope."""
    ip = ip_address(address)
    if ip.version == 4:  # noqa: PLR2004
        return not any(ip in network for network in _NOT_PUBLIC)
    return ip in _UNICAST and not any(ip in network for network in _NOT_PUBLIC_6)
