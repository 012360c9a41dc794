"""Which image URLs may be fetched."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.config import Limits
from autoglm_serving.gateway.facts import ASSUMED_SIZE, parse, read
from autoglm_serving.image_urls import check_type, check_url, forbidden
from autoglm_serving.protocol import parse_chat
from autoglm_serving.wire import ApiError

HOSTS = ("img.example.com", "*.cdn.example", "lab.example:8080")


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://img.example.com/a.png", "img.example.com", 443),
        ("http://IMG.Example.com/a.png?x=1#y", "img.example.com", 80),
        ("https://img.example.com./a.png", "img.example.com", 443),
        ("https://a.b.cdn.example/x", "a.b.cdn.example", 443),
        ("https://lab.example:8080/x", "lab.example", 8080),
        ("https://img.example.com:443/x", "img.example.com", 443),
    ],
)
def test_listed_hosts_may_be_asked(url: str, host: str, port: int) -> None:
    target = check_url(url, HOSTS, "here")
    assert (target.url, target.host, target.port) == (url, host, port)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "https://img.example.com.evil.net/a.png",
        "https://evil-img.example.com/a.png",
        "https://cdn.example/a.png",
        "https://notcdn.example/a.png",
        "https://img.example.com:8443/a.png",
        "https://lab.example/a.png",
        "https://user@img.example.com/a.png",
        "https://img.example.com:pass@evil.net/a.png",
        "https://evil.net\\@img.example.com/a.png",
        "https://img.example.com\t.evil.net/",
        "https://img.example.com /a",
        "https://img.example.com:99999/a",
        "https://[::1/a",
        "https:///a",
        "https://127.0.0.1/a.png",
        "ftp://img.example.com/a.png",
        "file:///etc/passwd",
        "gopher://img.example.com/",
        "https://img.example.com/" + "a" * 3000,
    ],
)
def test_everything_else_is_refused_with_its_place(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_url(url, HOSTS, "here")
    assert (caught.value.status, caught.value.param) == (400, "here")


@given(st.text(max_size=60))
def test_any_text_is_either_a_listed_host_or_refused(text: str) -> None:
    for url in (text, "https://" + text, "https://img.example.com" + text):
        try:
            target = check_url(url, HOSTS, "here")
        except ApiError:
            continue
        assert target.host in ("img.example.com", "lab.example") or target.host.endswith(".cdn.example")
        assert target.port in (80, 443, 8080)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.192", "192.0.0.8", "192.88.99.1", "168.63.129.16", "::ffff:192.0.0.192",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::7f00:1", "2001:db8::1",
        "64:ff9b:1::1", "fd00:ec2::254", "fec0::1", "feff::1", "::ffff:0:10.0.0.1", "::ffff:0:1.1.1.1",
        "5f00::1", "4000::1", "1fff::1", "c000::1", "not an address", "", "127.1", "2130706433",
    ],
)  # fmt: skip
def test_nobody_connects_to_an_address_that_is_not_public(address: str) -> None:
    assert forbidden(address) is not None


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses_may_be_connected_to(address: str) -> None:
    assert forbidden(address) is None


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_judged_alike_however_it_is_wrapped(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    low = f"{number >> 16:x}:{number & 0xFFFF:x}"
    wrapped = [f"::ffff:{plain}", f"64:ff9b::{low}", f"2002:{low}::1"]
    assert {forbidden(each) is None for each in wrapped} == {forbidden(str(plain)) is None}
    if not plain.is_global:
        assert forbidden(str(plain)) is not None


@pytest.mark.parametrize("kind", [None, "", "text/html", "image/svg+xml", "application/octet-stream", "image/pngx"])
def test_other_types_than_images_are_refused(kind: str | None) -> None:
    with pytest.raises(ApiError, match="invalid_image"):
        check_type(kind, "here")
    check_type("Image/PNG; charset=binary", "here")


BODY = b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"%s"}}]}]}'


@pytest.mark.parametrize(
    "url", [b"https://img.example.com/a.png", b"http://10.0.0.1/", b"file:///etc/passwd", b"/etc/passwd"]
)
def test_without_listed_hosts_images_come_inside_the_request_only(url: bytes) -> None:
    with pytest.raises(ApiError, match="data URL") as caught:
        parse_chat(BODY % url, Limits())
    assert caught.value.param == "messages[0].content[0].image_url.url"
    with pytest.raises(ApiError):
        read(parse(BODY % url), Limits())


def test_with_listed_hosts_the_gateway_assumes_a_phones_screen() -> None:
    limits = Limits(image_hosts=HOSTS)
    assert read(parse(BODY % b"https://img.example.com/a.png"), limits).images == (ASSUMED_SIZE,)
    for url in (b"https://evil.net/a.png", b"file:///etc/passwd"):
        with pytest.raises(ApiError):
            read(parse(BODY % url), limits)
