"""Redaction of URLs, and who may be sent credentials."""

from __future__ import annotations

import pytest

from tim_search.gates.urls import Recipient, check_recipient, holds_secret, redacted, redacted_url
from tim_search.types import BadInput

SECRETS = (
    "http://me:hunter2@host:5000",
    "http://hunter2@host:5000",
    "http://me:hun/ter2hunter2@host:5000",
    "http://me:a@hunter2/b@host:5000/x",
    "http://me:a hunter2 b@host:5000",
    "http://me:a?hunter2#b@host:5000",
    "http://me:hunter2@[::1]:5000",
    "http://me:hunter2@[::1:5000",
    "http://host:5000/?token=hunter2",
    "http://host:5000/?a=b&%74oken=hunter2",
    "http://host:5000/?a=b&api_key=hunter2&c=d",
    "https://b.s3.amazonaws.com/x?X-Amz-Signature=hunter2&X-Amz-Credential=hunter2",
    "https://blob/x?sv=1&sig=hunter2",
    "s3://bucket/x?secret_key=hunter2&access_key=hunter2",
    "s3://hunter2:hunter2@bucket/x",
    "postgresql://me:hunter2@db/mlflow?password=hunter2",
    "ray://me:hunter2@head:10001",
    "http://host/#access_token=hunter2",
    "http://host/#hunter2",
    "https://host/x?a=b#hunter2&c=d",
    "http://host/x;token=hunter2",
    "http://host/x;v=1;jsessionid=hunter2/y",
)


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("text", ["{}", "MLflow at {} could not be read.", "{}, then {}", "'{}': no", "one\n{}\ntwo"])
def test_no_secret_of_a_url_stays_in_a_text(url: str, text: str) -> None:
    assert "hunter2" not in redacted(text.format(url, url))
    assert "hunter2" not in redacted_url(url)
    assert holds_secret(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("https://me:sec@ret@host", "https://host"),
        ("https://me:sec/ret@host", "https://***@host"),
        ("http://host/?token=a b&x=1", "http://host/?token=***&x=1"),
        ("http://host/?a=1&token=abc#end", "http://host/?a=1&token=***#***"),
        ("http://host/x;token=abc/y", "http://host/x;token=***"),
        ("http://host:5000/#/experiments/1", "http://host:5000/#/experiments/1"),
        ("sqlite:////home/a#b.db", "sqlite:////home/a#b.db"),
    ],
)
def test_what_is_no_secret_stays(url: str, expected: str) -> None:
    assert redacted_url(url) == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000",
        "sqlite:////home/me@work/mlflow.db",
        "sqlite+pysqlite:////home/me@work/mlflow.db",
        "file:///home/me@work",
        "s3://bucket/prefix?endpoint_override=minio:9000&scheme=http&region=eu-west-1",
        "/home/me@work/ledger",
        "Read https://example.org/docs and write to admin@example.org.",
        "",
    ],
)
def test_texts_without_secrets_are_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_a_host_with_a_user_before_it_holds_a_secret() -> None:
    assert holds_secret("me:secret@head:6379")
    assert not holds_secret("head:6379")
    assert not holds_secret("/home/me@work")


@pytest.mark.parametrize("trusted", [None, "http://other:9000", "https://minio:9000", "http://minio:9001"])
def test_a_file_alone_decides_on_no_recipient(trusted: str | None) -> None:
    with pytest.raises(BadInput, match=r"search.json: names http://minio:9000, .* AWS credentials.* AWS_ENDPOINT_URL"):
        check_recipient(
            "http://minio:9000",
            trusted,
            place="search.json",
            credentials="the AWS credentials",
            fix="Set AWS_ENDPOINT_URL={url} where you trust it.",
        )


@pytest.mark.parametrize("url", ["http://MinIO:9000/", "http://minio:9000"])
def test_a_recipient_that_the_user_names_too_is_fine(url: str) -> None:
    recipient = check_recipient(url, "http://minio:9000", place="search.json", credentials="keys", fix="")
    assert str(recipient) == "http://minio:9000"


@pytest.mark.parametrize("url", ["http://", "http://host:port", "http://[::1", "http://a b/", "http://host:99999999"])
def test_a_url_without_a_host_names_no_recipient(url: str) -> None:
    with pytest.raises(BadInput, match="expected http"):
        Recipient.of(url)
