"""Hide what looks like a secret before it is printed, logged or stored.

This is a net under the rule that values of environment variables are never written at all. It looks
for names that say so (`password=...`), for well-known forms of keys, and for random-looking strings
behind words such as `key`. What training logs are full of (tokens per second, a state dictionary's
keys, hashes, numbers) is left readable.
"""

from __future__ import annotations

import re

MASK = "***"

# Anywhere in a name, and only as its last word. Both as whole words: "tokenizer" is neither.
_ANYWHERE = (
    r"passphrase|pwd|secrets?|credentials?|authorization"
    r"|(?:api|access|account|private|signing|encryption|master|ssh)[-_.]?keys?"
)
_AT_END = (
    r"pass|(?:auth|access|refresh|session|id)?token|key|auth|pat|dsn|sas|jwt|cookie"
    r"|signature|sig|webhook"
)
_SECRET_NAME = re.compile(
    rf"passw(?:or)?d|(?:^|[-_.])(?:(?:{_ANYWHERE})(?:$|[-_.])|(?:{_AT_END})$)", re.IGNORECASE
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# With these a short number is a count, not a secret: "token=5", "forward_pass: 0.031".
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?%?")
_NUMBER_MAY_BE_SECRET = re.compile(r"(?i)passw|passphrase|pwd|secret|credential|authorization")

# name=value, name: value, "name": "value", --name=value; and --name value.
_ASSIGNED = re.compile(
    r"""(?<![\w.-])(?P<name>-{0,2}[A-Za-z_][\w.-]*)(?P<sep>\\?["']?[ \t]*(?:=>|=|:)[ \t]*)"""
)
_FLAG = re.compile(r"(?<!\S)(?P<name>--?[A-Za-z][\w.-]*)(?P<sep>[ \t]+)(?!-)")
_VALUE = re.compile(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[^\s,;&"'(){}\[\]<>]+""")
_BEARER = re.compile(r"(?i)\b(?P<head>bearer\s+|authorization\W+basic\s+)[^\s\"']{8,}")
_URL = re.compile(r"(?P<head>(?<![\w+.-])[A-Za-z][\w+.-]*://)(?P<user>[^\s/]+)@")
_PEM = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----.*?(?:-----END (?P=kind)-----|\Z)", re.DOTALL
)
_KNOWN_FORM = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|xox[abprs]-[\w-]{10,}|sk-[\w-]{20,}|pypi-[\w-]{20,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r")"
)
_RANDOM_AFTER_WORD = re.compile(
    r"(?i)(?P<head>(?:key|token|secret)\b\W{0,3}(?:(?:is|was|of|for)\W{1,3})?)(?P<value>[\w+/=-]{20,})"
)
_FORTY = re.compile(r"(?<![\w+/=.-])[A-Za-z0-9+/]{40}(?![\w+/=.-])")  # an AWS secret key
_HEX = re.compile(r"[0-9a-fA-F]{32,}")


def is_secret_name(name: str) -> bool:
    """Whether a variable, key or flag of that name usually holds a secret."""
    words = name.lstrip("-")
    return any(_SECRET_NAME.search(form) for form in (words, _CAMEL.sub("_", words)))


def redact(text: str) -> str:
    """`text` with everything that looks like a secret replaced by `***`."""
    text = _PEM.sub(MASK, text)
    text = _URL.sub(_mask_user, text)
    text = _BEARER.sub(lambda m: m["head"] + MASK, text)
    text = _KNOWN_FORM.sub(MASK, text)
    text = _mask_values(_ASSIGNED, text)
    text = _mask_values(_FLAG, text)
    text = _RANDOM_AFTER_WORD.sub(_mask_random, text)
    return _FORTY.sub(lambda m: MASK if _is_mixed(m[0]) else m[0], text)


def _mask_user(match: re.Match[str]) -> str:
    user, colon, _ = match["user"].partition(":")
    if colon:
        return f"{match['head']}{user}:{MASK}@"
    return f"{match['head']}{user if user == 'git' else MASK}@"


def _mask_values(head: re.Pattern[str], text: str) -> str:
    """Mask the values behind secret names; what follows another name is searched again."""
    parts, copied, at = [], 0, 0
    while found := head.search(text, at):
        at = found.end()
        value = _VALUE.match(text, at) if is_secret_name(found["name"]) else None
        if value is None or _is_count(found["name"], value[0]):
            continue
        quote = value[0][0] if value[0][0] in "\"'" else ""
        parts += [text[copied:at], quote, MASK, quote]
        copied = at = value.end()
    return "".join([*parts, text[copied:]])


def _is_count(name: str, value: str) -> bool:
    return bool(_NUMBER.fullmatch(value)) and not _NUMBER_MAY_BE_SECRET.search(name)


def _mask_random(match: re.Match[str]) -> str:
    value = match["value"]
    return match["head"] + MASK if _is_mixed(value) or _HEX.fullmatch(value) else match[0]


def _is_mixed(value: str) -> bool:
    """Whether upper case, lower case and digits all occur."""
    kinds = (str.isupper, str.islower, str.isdigit)
    return all(any(is_kind(c) for c in value) for is_kind in kinds)
