"""Secrets are masked; what training logs are full of is not."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.redact import MASK, is_secret_name, redact

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # the one of AWS's documentation


@pytest.mark.parametrize(
    "name",
    [
        "PASSWORD",
        "PGPASSWORD",
        "NGROK_AUTHTOKEN",
        "DB_PASS",
        "db-password",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "WANDB_API_KEY",
        "HF_TOKEN",
        "GITHUB_PAT",
        "apiKey",
        "accessToken",
        "clientSecret",
        "--api-key",
        "OPENAI_KEY",
        "SENTRY_DSN",
        "SSH_PRIVATE_KEY_FILE",
        "Authorization",
        "X-Amz-Signature",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "TOKENIZERS_PARALLELISM",
        "tokenizer",
        "max_tokens",
        "tokens",
        "num_tokens_per_s",
        "keyboard",
        "monkey",
        "key_padding_mask",
        "keys",
        "passes",
        "compass",
        "author",
        "secretary",
        "CUDA_VISIBLE_DEVICES",
        "SSH_AUTH_SOCK",
        "batch_size",
    ],
)
def test_other_names_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password=hunter2", "password=***"),
        ("password: 12345", "password: ***"),
        ("error: password=hunter2", "error: password=***"),
        ("a=b:token=abc", "a=b:token=***"),
        ('{"api_key": "abc", "lr": 0.1}', '{"api_key": "***", "lr": 0.1}'),
        ("{'token': 'a\\'b c'}", "{'token': '***'}"),
        ("export HF_TOKEN=hf_x; python train.py", "export HF_TOKEN=***; python train.py"),
        ("train.py --api-key abc --lr 0.1", "train.py --api-key *** --lr 0.1"),
        ("train.py --api-key=abc --lr=0.1", "train.py --api-key=*** --lr=0.1"),
        ("train.py --password 'two words'", "train.py --password '***'"),
        ("Authorization: Bearer abc.def-123", "Authorization: *** ***"),
        ("curl -H 'bearer 0123456789abcdef'", "curl -H 'bearer ***'"),
        ("postgres://me:pa@ss@db.example/x", "postgres://me:***@db.example/x"),
        ("https://x0123456789@github.com/a/b", "https://***@github.com/a/b"),
        ("s3://bucket/key?X-Amz-Signature=ab12&n=1", "s3://bucket/key?X-Amz-Signature=***&n=1"),
        ("id AKIAIOSFODNN7EXAMPLE here", "id *** here"),
        (f"secret {AWS_SECRET}", "secret ***"),
        (f"boto said {AWS_SECRET}, then died", "boto said ***, then died"),
        ("ghp_" + "a1B2" * 9, "***"),
        ("using hf_" + "abcDEF123" * 4, "using ***"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJ", "jwt ***"),
        ("the key is A1b2C3d4E5f6G7h8I9j0K1", "the key is ***"),
        ("token 9f86d081884c7d659a2feaa0c55ad015", "token ***"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nafter",
            "***\nafter",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIE and then the log was cut", "***"),
    ],
)
def test_values_of_secrets_are_masked(text: str, masked: str) -> None:
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3: loss=0.231 val_accuracy=0.97",
        "tokens: 32768, tokens/s: 1.2e5",
        "token=5 key: 17 forward_pass: 0.031",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709",
        'RuntimeError: Missing key(s) in state_dict: "layer4.1.bn2.running_mean"',
        "unexpected key transformer_encoder_layer_12_attention_weight",
        "git@github.com:someone/project.git",
        "ssh://git@github.com/someone/project",
        "https://example.org/path@2x.png?size=3",
        'File "/usr/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1518',
        "python train.py --data data --epochs 6 --seed 0",
        "CUDA out of memory. Tried to allocate 1.20 GiB",
        "http://127.0.0.1:6006/",
    ],
)
def test_what_is_no_secret_is_left_readable(text: str) -> None:
    assert redact(text) == text


words = st.text(alphabet=string.ascii_letters + string.digits + "_-.", min_size=1, max_size=12)
secrets = st.text(alphabet=string.ascii_letters + string.digits, min_size=6, max_size=40).filter(
    lambda s: not s.isdigit()
)
names = st.sampled_from(
    ["password", "API_KEY", "hf_token", "clientSecret", "db.passwd", "PGPASSWORD"]
)
forms = st.sampled_from(
    ["{}={}", "{}: {}", '"{}": "{}"', "--{} {}", "--{}={}", "{} = '{}'", "export {}={}", "{}=>{}"]
)


@given(before=words, name=names, secret=secrets, form=forms)
def test_a_named_secret_never_shows(before: str, name: str, secret: str, form: str) -> None:
    text = f"{before} {form.format(name, secret)} after"
    masked = redact(text)
    assert secret not in masked.replace(before, "", 1)
    assert masked.startswith(before)
    assert masked.endswith("after")


@given(st.text(max_size=300))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(alphabet="pasword=: \"'key-tn/@*\\\n0aA", max_size=200))
def test_masking_twice_changes_nothing_more_in_texts_full_of_names(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_lines_stay_lines() -> None:
    text = "a\npassword=x\nb\n"
    assert redact(text) == f"a\npassword={MASK}\nb\n"


def test_a_long_line_is_masked_in_reasonable_time() -> None:
    """No pattern may go wild: the work must grow with the text, not with its square."""
    text = ("a" * 50 + "=" + "b" * 50 + " - ") * 2000
    assert redact(text) == text
