"""Personal data in source code -> placeholders: e-mail addresses, public IP addresses, keys.

    ada@lovelace.org          <EMAIL>       not git@host:path, package@1.2.3, icon@2x.png
    81.2.69.160, 2a00:1450::  one of five private addresses of its kind, the same for the same address
                              not private, reserved or documentation addresses, not public resolvers, not versions
    ghp_…, AKIA…, PEM blocks  <KEY>         by the forms that their issuers gave them
    what detect-secrets finds <KEY>         if asked for: entropy as well as forms, without words that announce hashes

Placeholders and private addresses are those that BigCode put into The Stack. Where it chose by chance, the choice here
is made by a hash: the same text is always redacted to the same, and to redact it again changes nothing. This is a net
with holes, no proof that no personal data are left: names and passwords are not looked for.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING

from attribution.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

EMAIL, KEY = "<EMAIL>", "<KEY>"
PRIVATE_V4 = ("172.16.31.10", "172.16.58.3", "172.16.17.32", "192.168.127.12", "192.168.3.11")
PRIVATE_V6 = (
    "fd00:c2b6:b24b:be67:2827:688d:e6a1:6a3b",
    "fd00:a516:7c1b:17cd:6d81:2137:bd2a:2c5b",
    "fc00:e968:6179::de52:7100",
    "fc00:db20:35b:7399::5",
    "fdf8:f53e:61e4::18",
)

_RESOLVERS = frozenset(
    """
    1.1.1.1 1.0.0.1 8.8.8.8 8.8.4.4 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 8.26.56.26 8.20.247.20
    94.140.14.14 94.140.15.15 76.76.19.19 76.223.122.150 2001:4860:4860::8888 2001:4860:4860::8844
    2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe 2620:fe::9
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings
)

# Looked for on both sides of each @ that there is: fifty times faster than one expression that is tried at every word.
_LOCAL = re.compile(r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}\Z")
_LOCAL_CHARS = 64 + 1
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?P<top>[A-Za-z]{2,24})(?![\w@]|\.\w|-\w)"
)
_NO_TOP_LEVEL = frozenset("png jpg jpeg gif svg webp ico css scss less js jsx mjs ts tsx json html txt xml".split())  # noqa: SIM905
_NO_PERSON = frozenset({"git", "hg", "svn"})  # the accounts of forges in the addresses of repositories

# Networks are no one's address, and neither is what is no part of the global unicast space (2000::/3): 1::2 is a slice.
_V4_HINT = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")  # four times faster than the whole, and few texts have one
_V4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w/-]|\.\w)")
_V6 = re.compile(r"[23][0-9A-Fa-f]{3}(?<![\w:.]....):[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{1,29}(?![\w:/]|\.\d)")
_VERSION = re.compile(
    r"(?:version|release|update|build|sections?|chapter|sdk|[<>~^=]=|[<>~^]|\bv|\bver)[\"']?[\s:=(,\"']*\Z",
    re.IGNORECASE,
)
_CONTEXT_CHARS = 24
_SMALL_OCTET = 31  # 2.4.0.1 and 20.12.3.30 are versions and dates more often than addresses

_KEYS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,64}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}"  # Slack
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}"  # Stripe
    r"|sk-(?:proj-|ant-|or-)?[A-Za-z0-9_-]{32,255}"  # language models
    r"|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,255}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,255}"  # Google
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}|SK[0-9a-f]{32}"  # SendGrid, Twilio
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # signed web tokens
    r")(?![A-Za-z0-9_-])"
)
_KEY_MARKS = (
    *(
        "AKIA",
        "ASIA",
        "AROA",
        "AIDA",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xox",
        "sk_live_",
    ),
    *(
        "sk_test_",
        "rk_live_",
        "rk_test_",
        "sk-proj-",
        "sk-ant-",
        "sk-or-",
        "hf_",
        "npm_",
        "pypi-",
        "AIza",
        "ya29.",
        "SG.",
        "eyJ",
    ),
    *(f"{mark}{begin}" for begin in ("sk-", "SK") for mark in "'\"`=: "),
)
"""One of these stands in every key: to look for them all is faster than to try the expression everywhere."""
_PEM = re.compile(
    r"(?P<begin>-----BEGIN (?P<kind>(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----)"
    r"[^-]{40,20000}(?=-----END (?P=kind)-----)"
)

_HASH_WORDS = re.compile(r"sha\d*|md5|hash|digest|checksum|integrity|commit|uuid|fingerprint", re.IGNORECASE)
# Of its detectors those whose finds have the form of a key, not of any word after "password".
_DETECTORS = tuple(
    """
    ArtifactoryDetector AWSKeyDetector AzureStorageKeyDetector CloudantDetector DiscordBotTokenDetector
    GitHubTokenDetector IbmCloudIamDetector IbmCosHmacDetector JwtTokenDetector MailchimpDetector NpmDetector
    SendGridDetector SlackDetector SoftlayerDetector SquareOAuthDetector StripeDetector TwilioKeyDetector
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings
)
_ENTROPY_DETECTORS = ({"name": "Base64HighEntropyString", "limit": 4.5}, {"name": "HexHighEntropyString", "limit": 3.0})


def redacted(text: str, *, detect_secrets: bool = False) -> str:
    """Return a text with placeholders in the place of personal data.

    `detect_secrets`: also what that package finds. Raises `SourceError` if it is asked for and not installed.
    """
    text = _without_keys(text)
    if detect_secrets:
        text = _without_secrets(text)
    text = _without_emails(text)
    if _V4_HINT.search(text):
        text = _V4.sub(_instead_of_address, text)
    return _V6.sub(_instead_of_address, text)


def _without_keys(text: str) -> str:
    if any(mark in text for mark in _KEY_MARKS):
        text = _KEYS.sub(KEY, text)
    return _PEM.sub(lambda match: f"{match['begin']}\n{KEY}\n", text) if "PRIVATE KEY" in text else text


def _without_emails(text: str) -> str:
    parts = []
    done = 0
    at = text.find("@")
    while at >= 0:
        # Not from below zero, nor from before the last one: a slice would begin at the wrong place.
        local = _LOCAL.search(text, max(done, at - _LOCAL_CHARS), at)
        domain = _DOMAIN.match(text, at + 1) if local else None
        if local and domain and domain["top"].lower() not in _NO_TOP_LEVEL and local[0].lower() not in _NO_PERSON:
            parts += [text[done : local.start()], EMAIL]
            done = domain.end()
        at = text.find("@", max(done, at + 1))
    return "".join([*parts, text[done:]])


def _instead_of_address(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:  # 999.1.2.3, 01:23:45, a C++ scope
        return match[0]
    if not address.is_global or address.is_multicast or str(address) in _RESOLVERS or _is_version(match, address):
        return match[0]
    choices = PRIVATE_V4 if address.version == 4 else PRIVATE_V6  # noqa: PLR2004 - the protocol's number
    return choices[hashlib.sha256(address.packed).digest()[0] % len(choices)]


def _is_version(match: re.Match[str], address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether four numbers are a version, by what stands before them or by how small they are."""
    if isinstance(address, ipaddress.IPv6Address):
        return False
    # Not from below zero: a slice would then begin at the wrong end of the text, or be empty.
    before = match.string[max(0, match.start() - _CONTEXT_CHARS) : match.start()]
    return _VERSION.search(before) is not None or max(address.packed) <= _SMALL_OCTET


# --- detect-secrets --------------------------------------------------------------------------------------------------


def _without_secrets(text: str) -> str:
    try:
        from detect_secrets.core.scan import scan_line  # noqa: PLC0415 - an extra
        from detect_secrets.settings import transient_settings  # noqa: PLC0415
    except ImportError as error:
        raise SourceError(
            "Keys are looked for with detect-secrets, which is not installed: pip install 'starcite[corpus]'."
        ) from error
    plugins = [{"name": name} for name in _DETECTORS] + list(_ENTROPY_DETECTORS)
    with transient_settings({"plugins_used": plugins}):
        lines = text.split("\n")
        for number, line in enumerate(lines):
            if _may_hold_secret(line):
                lines[number] = _line_without(line, sorted(_values(scan_line(line)), key=lambda v: (-len(v), v)))
    return "\n".join(lines)


def _may_hold_secret(line: str) -> bool:
    """Return whether a line is worth a scan: it holds a long word, and speaks of no hash. Scanning is slow."""
    return re.search(r"[A-Za-z0-9+/_=-]{16}", line) is not None and _HASH_WORDS.search(line) is None


def _values(secrets: object) -> Iterator[str]:
    for secret in secrets:  # type: ignore[attr-defined]  # the package has no types
        if secret.secret_value:
            yield secret.secret_value


def _line_without(line: str, values: list[str]) -> str:
    for value in values:
        line = line.replace(value, KEY)
    return line
