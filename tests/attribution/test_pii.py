"""Personal data: what is replaced by what, and what only looks like personal data."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution import pii
from attribution.errors import SourceError
from attribution.pii import redacted

if TYPE_CHECKING:
    import ipaddress

LETTERS = "aB3dE6gH9" * 30
KEYS = [
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "ghp_" + LETTERS[:36],
    "github_pat_" + LETTERS[:82],
    "glpat-" + LETTERS[:20],
    "xoxb-" + "123456789012-abcdefABCDEF",
    "sk_live_" + LETTERS[:24],
    "sk-proj-" + LETTERS[:48],
    "hf_" + LETTERS[:34],
    "npm_" + LETTERS[:36],
    "AIza" + LETTERS[:35],
    "SG." + LETTERS[:22] + "." + LETTERS[:43],
    "SK" + "0123456789abcdef" * 2,
    "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:40] + "." + LETTERS[:43],
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Ada <ada@lovelace.org>", "# Ada <<EMAIL>>"),
        ("ada@lovelace.org", "<EMAIL>"),
        ("mailto:ada.l+x@mail.lovelace.co.uk, b@c.io.", "mailto:<EMAIL>, <EMAIL>."),
        ("a@b.org,c@d.org;e@f.org", "<EMAIL>,<EMAIL>;<EMAIL>"),
        ("user='ada_l@lovelace.org'", "user='<EMAIL>'"),
    ],
)
def test_addresses_of_people(text: str, expected: str) -> None:
    """E-mail addresses are replaced, and nothing around them is changed: no space is added, no mark is lost."""
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:ada/engine.git",
        "npm install lodash@4.17.21",
        "python@2.7",
        "icon@2x.png",
        "@app.route('/x')",
        "a @ b.T",
        "x@y",
        "foo@@bar.org",
        "user@localhost",
        "@",
        "weights@values.",
    ],
)
def test_what_only_looks_like_an_address_of_a_person(text: str) -> None:
    """Accounts of forges, versions of packages, decorators, operators and names of pictures stay."""
    assert redacted(text) == text


@pytest.mark.parametrize("before", ["", "x", " " * 300])
@pytest.mark.parametrize("address", ["81.2.69.160", "2a00:1450:4009:81f::200e", "2A00:1450:4009:81F:0:0:0:200E"])
def test_public_addresses(before: str, address: str) -> None:
    """A public address is one of five private ones, the same each time, also at the very start of a text."""
    if before == "x":
        before = "host="
    found = redacted(f"{before}{address}:80 {address}") if "." in address else redacted(f"{before}{address} {address}")
    new = found.split()[-1]
    assert new in (pii.PRIVATE_V4 if "." in address else pii.PRIVATE_V6)
    assert found.startswith(before + new)
    assert found.count(new) == 2


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1 10.1.2.3 192.168.0.1 169.254.1.1 0.0.0.0 255.255.255.255",
        "192.0.2.1 198.51.100.7 203.0.113.9",
        "8.8.8.8 1.1.1.1 9.9.9.9",
        "224.0.0.0/4 81.2.69.0/24",
        "999.81.2.69 81.2.69.300",
        "81.2.69.160.5 5.81.2.69.160 v81.2.69.160",
        "version 81.2.69.160",
        'version = "81.2.69.160"',
        "pkg==81.2.69.160",
        "pkg>=81.2.69.160",
        "SDK 81.2.69.160 section 81.2.4.43",
        "20.12.3.30",
        "::1 fe80::1 fc00::7 2001:db8::1",
        "a[1::2] std::vector a::b 12:34:56 2001:4860:4860::8888",
        "01:23:45:67:89:ab",
    ],
)
def test_what_is_no_one_s_address(text: str) -> None:
    """Private, documentation and network addresses, resolvers, versions, dates, slices and scopes stay."""
    assert redacted(text) == text


@pytest.mark.parametrize("key", KEYS)
def test_keys(key: str) -> None:
    """Keys are known by the forms that their issuers gave them, in quotes, assignments and alone."""
    assert redacted(f'token = "{key}"') == 'token = "<KEY>"'
    assert redacted(f"TOKEN={key}\n") == "TOKEN=<KEY>\n"
    assert redacted(f"x{key}") == f"x{key}"


def test_private_keys() -> None:
    """The body of a private key goes, and its borders stay; a public key stays whole."""
    body = "MIIEpAIBAAKCAQEA" * 20
    text = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n"
    assert redacted(text) == "-----BEGIN RSA PRIVATE KEY-----\n<KEY>\n-----END RSA PRIVATE KEY-----\n"
    public = text.replace("PRIVATE", "PUBLIC")
    assert redacted(public) == public


PIECES = st.sampled_from(
    [*KEYS, "ada@lovelace.org", "81.2.69.160", "2a00:1450::200e:1", " ", "\n", '"', "@", ".", "=", ":", "x", "é", "1"]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=5))).map("".join))
def test_redacting_again_changes_nothing(text: str) -> None:
    """What is redacted stays as it is; the same text is always redacted to the same."""
    once = redacted(text)
    assert redacted(once) == once == redacted(text)


@given(st.ip_addresses())
def test_no_public_address_is_left(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Of all addresses that stand alone, only small ones (versions), resolvers and those of no one are left."""
    left = redacted(f"connect('{address}')") == f"connect('{address}')"
    small = address.version == 4 and max(address.packed) < 32
    outside = address.version == 6 and (not 0x20 <= address.packed[0] <= 0x3F or str(address).count(":") < 3)
    assert left == (not address.is_global or address.is_multicast or small or outside) or str(address) in pii._RESOLVERS


def test_detect_secrets() -> None:
    """What detect-secrets finds goes too, if it is asked for, but not where a line speaks of hashes."""
    pytest.importorskip("detect_secrets", reason="the extra `corpus` is not installed")
    random_looking = "c3VwZXIgbG9uZyBzdHJpbmcgc2hvdWxkIGNhdXNlIGVub3VnaCBlbnRyb3B5"
    lines = f'key = "{random_looking}"\nsha256 = "{random_looking}"\nx = 1\n'
    assert redacted(lines) == lines
    assert redacted(lines, detect_secrets=True) == f'key = "<KEY>"\nsha256 = "{random_looking}"\nx = 1\n'


def test_detect_secrets_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, asking for it is an error that names the extra."""
    monkeypatch.setitem(sys.modules, "detect_secrets.core.scan", None)
    with pytest.raises(SourceError, match=r"pip install 'starcite\[corpus\]'"):
        redacted("x", detect_secrets=True)
