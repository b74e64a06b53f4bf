"""Names that are allowed, denied, or come from a private index."""

import pytest

from task_server.policy import Policy, PrivateIndex, parse_patterns


def test_patterns_are_normalised_names_with_stars() -> None:
    assert parse_patterns(" NumPy, acme_*  Foo.Bar,numpy") == ("numpy", "acme-*", "foo-bar")
    assert parse_patterns(None) == parse_patterns(" , ") == ()


@pytest.mark.parametrize("text", ["a;b", "numpy>=1", "--index-url=x", "a/b", "\u0430"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a package"):
        parse_patterns(text)


def test_what_is_denied_is_refused_even_if_it_is_allowed() -> None:
    policy = Policy.read("acme-*, numpy", "acme-bad")

    assert policy.refused(["numpy", "acme-good", "acme-bad", "other"]) == ["acme-bad", "other"]
    assert policy.denied_of(["other", "acme-bad"]) == ["acme-bad"]
    assert Policy.read(None, None).is_open and not Policy.read("", None).is_open
    assert Policy.read("", None).refused(["numpy"]) == ["numpy"]


def test_a_private_index_keeps_its_credentials_off_the_command_line() -> None:
    private = PrivateIndex.read("https://me:s%40cret@index.example/wheels/", "acme-*")

    assert private is not None
    assert private.argument == "private=https://index.example/wheels/"
    assert private.environ == {
        "UV_INDEX_PRIVATE_USERNAME": "me",
        "UV_INDEX_PRIVATE_PASSWORD": "s@cret",
    }
    assert private.has("acme-tools") and not private.has("numpy")


@pytest.mark.parametrize(
    ("url", "names"),
    [("https://x/", None), (None, "acme"), ("file:///x", "acme"), ("x", "acme"), ("https://", "a")],
)
def test_half_a_private_index_is_refused(url: str | None, names: str | None) -> None:
    with pytest.raises(ValueError, match="private index"):
        PrivateIndex.read(url, names)
