"""The host's own address on its bridge, for frontends that nobody here wrote: ARP, ping, and an echo service.

    who has 10.0.0.1? (RFC 826)     ping 10.0.0.1 (RFC 792)     a datagram to port 7 comes back as it was (RFC 862)

The emulator's own guests are told all addresses and never ask, so that nothing of this is there unless it is wanted.

Where we differ from a kernel: datagrams in fragments are not put together again, an answer keeps the TTL and the
identification of the question, and the bridge learns nothing, as with learning switched off: it knows the address that
each frontend has published, so that none can take another's traffic. What is meant for nobody leaves by the card.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Protocol

from lateack.nodes.stack.packets import ETH_HLEN, IP_HLEN, IPPROTO_UDP, IPV4_PLAIN, Malformed, ones_sum, parse

ETH_ARP = b"\x08\x06"
ARP_ETHERNET_IPV4 = b"\x00\x01\x08\x00\x06\x04"
ARP = Struct("!6sH6s4s6s4s")
"""Hardware and protocol types and lengths; operation; the sender's two addresses; the target's two (RFC 826)."""
ARP_REQUEST, ARP_REPLY = 1, 2

IPPROTO_ICMP = 1
ICMP_ECHO_REPLY, ICMP_ECHO = 0, 8
ICMP_HLEN = 8

ECHO_PORT = 7
GROUP_BIT = 1
"""In the first byte of an Ethernet address: it is meant for several (IEEE 802)."""


class Port(Protocol):
    """Where the bridge sends what is meant for one Ethernet address."""

    def queue_frame(self, frame: bytes) -> None:
        """Take a frame that is whole and summed."""
        ...


class EchoHost:
    """The host as its guests see it; it answers into the same ports that the bridge uses."""

    __slots__ = ("ip", "mac", "ports")

    def __init__(self, ip: int, mac: bytes, ports: Mapping[bytes, Port]) -> None:
        """Have these addresses, and answer to whoever stands in *ports* then."""
        self.ip = ip
        self.mac = mac
        self.ports = ports

    def pass_on(self, frame: bytes) -> None:
        """Give a frame to the one for whom it is, or to everybody but its sender (br_flood)."""
        if len(frame) < ETH_HLEN:
            return
        target, sender = frame[:6], frame[6:12]
        if target == self.mac:
            self.receive(frame)
        elif not target[0] & GROUP_BIT:
            if target in self.ports:
                self.ports[target].queue_frame(frame)
        else:
            for mac, port in self.ports.items():
                if mac != sender:
                    port.queue_frame(frame)
            self.receive(frame)

    def receive(self, frame: bytes) -> None:
        """Take a frame that is meant for the host, and answer it if there is an answer."""
        reply = answer(frame, self.ip, self.mac)
        if reply is not None and reply[:6] in self.ports:
            self.ports[reply[:6]].queue_frame(reply)


def answer(frame: bytes, ip: int, mac: bytes) -> bytes | None:
    """Return what the host with these addresses answers to a frame, None if nothing; whatever is broken gets nothing.

    Nothing is answered to a sender that calls itself by a group's address, nor from echo port to echo port, since two
    such services would never stop (CVE-1999-0103).
    """
    if len(frame) < ETH_HLEN or frame[6] & GROUP_BIT:
        return None
    if frame[12:14] == ETH_ARP:
        return _answer_arp(frame, ip, mac)
    if frame[:6] != mac or len(frame) < ETH_HLEN + IP_HLEN + ICMP_HLEN or frame[12:15] != IPV4_PLAIN:
        return None
    if int.from_bytes(frame[30:34]) != ip or frame[20] & 0x3F or frame[21]:
        return None
    if frame[23] == IPPROTO_UDP:
        return _echo_datagram(frame, mac)
    return _echo_ping(frame, mac) if frame[23] == IPPROTO_ICMP else None


def _answer_arp(frame: bytes, ip: int, mac: bytes) -> bytes | None:
    if len(frame) < ETH_HLEN + ARP.size:
        return None
    kind, operation, sender_mac, sender_ip, _, target_ip = ARP.unpack_from(frame, ETH_HLEN)
    if kind != ARP_ETHERNET_IPV4 or operation != ARP_REQUEST or int.from_bytes(target_ip) != ip:
        return None
    return frame[6:12] + mac + ETH_ARP + ARP.pack(kind, ARP_REPLY, mac, target_ip, sender_mac, sender_ip)


def _echo_datagram(frame: bytes, mac: bytes) -> bytes | None:
    """Send a datagram back; its sums hold, since they do not care about the order of what they sum."""
    try:
        datagram = parse(frame)
    except Malformed:
        return None
    if datagram.dport != ECHO_PORT or datagram.sport == ECHO_PORT:
        return None
    end = ETH_HLEN + int.from_bytes(frame[16:18])
    addresses, ports = frame[30:34] + frame[26:30], frame[36:38] + frame[34:36]
    return b"".join((frame[6:12], mac, frame[12:26], addresses, ports, frame[38:end]))


def _echo_ping(frame: bytes, mac: bytes) -> bytes | None:
    end = ETH_HLEN + int.from_bytes(frame[16:18])
    if not ETH_HLEN + IP_HLEN + ICMP_HLEN <= end <= len(frame) or frame[34] != ICMP_ECHO or frame[35]:
        return None
    if ones_sum(frame[14:34]) or ones_sum(frame[34:end]):
        return None
    rest = frame[38:end]
    check = 0xFFFF - ones_sum(bytes((ICMP_ECHO_REPLY, 0)) + rest)
    head = frame[6:12] + mac + frame[12:26] + frame[30:34] + frame[26:30]
    return head + bytes((ICMP_ECHO_REPLY, 0)) + check.to_bytes(2) + rest
