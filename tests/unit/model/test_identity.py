"""Names that are identities of this mesh, and every kind that SPIFFE forbids, with the reason that is given."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.identity import Identity, IdentityError, is_trust_domain

WEB = "spiffe://cluster.local/ns/apps/sa/web"
LONG = "a" * 255

ALLOWED = [
    WEB,
    "spiffe://td-1.example_2/ns/Apps.v2/sa/..web",
    f"spiffe://{LONG}/ns/a/sa/a",
    "spiffe://td/ns/a/sa/" + "s" * (2048 - len("spiffe://td/ns/a/sa/")),
]
FORBIDDEN = [
    ("", "does not start with spiffe://"),
    ("https://cluster.local/ns/apps/sa/web", "does not start with spiffe://"),
    ("SPIFFE://cluster.local/ns/apps/sa/web", "does not start with spiffe://"),
    (" " + WEB, "does not start with spiffe://"),
    (WEB + "?", "no query and no fragment"),
    (WEB + "?sa=admin", "no query and no fragment"),
    (WEB + "#", "no query and no fragment"),
    ("spiffe://cluster.local#/ns/apps/sa/web", "no query and no fragment"),
    ("spiffe://user@cluster.local/ns/apps/sa/web", "no user and no port"),
    ("spiffe://user:word@cluster.local/ns/apps/sa/web", "no user and no port"),
    ("spiffe://cluster.local:443/ns/apps/sa/web", "no user and no port"),
    ("spiffe://cluster.local:/ns/apps/sa/web", "no user and no port"),
    ("spiffe://[fd00::1]/ns/apps/sa/web", "no user and no port"),
    ("spiffe://cluster.local/ns/apps/sa/w%65b", "no percent-escapes"),
    ("spiffe://cluster%2elocal/ns/apps/sa/web", "no percent-escapes"),
    ("spiffe://cluster.local/ns/apps%2Fsa%2Fadmin/sa/web", "no percent-escapes"),
    ("spiffe:///ns/apps/sa/web", "a trust domain is of"),
    ("spiffe://Cluster.local/ns/apps/sa/web", "a trust domain is of"),
    ("spiffe://cluster local/ns/apps/sa/web", "a trust domain is of"),
    ("spiffe://clüster/ns/apps/sa/web", "a trust domain is of"),
    (f"spiffe://{LONG}a/ns/a/sa/a", "its trust domain has 256 characters"),
    ("spiffe://cluster.local/ns/./sa/web", "each part of the path"),
    ("spiffe://cluster.local/ns/apps/sa/..", "each part of the path"),
    ("spiffe://cluster.local/ns/other/../sa/web", "each part of the path"),
    ("spiffe://cluster.local/ns//sa/web", "each part of the path"),
    ("spiffe://cluster.local/ns/apps/sa/", "each part of the path"),
    (WEB + "/", "each part of the path"),
    ("spiffe://cluster.local//ns/apps/sa/web", "each part of the path"),
    ("spiffe://cluster.local/ns/apps/sa/web\n", "each part of the path"),
    ("spiffe://cluster.local/ns/apps/sa/web\x00", "each part of the path"),
    ("spiffe://cluster.local/ns/apps/sa/w*b", "each part of the path"),
    ("spiffe://cluster.local/ns/apps/sa/wéb", "each part of the path"),
    ("spiffe://cluster.local", "want spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"),
    ("spiffe://cluster.local/workload", "want spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"),
    ("spiffe://cluster.local/sa/web/ns/apps", "want spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"),
    ("spiffe://cluster.local/NS/apps/sa/web", "want spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"),
    (WEB + "/pod/web-0", "want spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"),
    ("spiffe://td/ns/a/sa/" + "s" * 2048, "it has 2068 characters; SPIFFE allows 2048"),
]


@pytest.mark.parametrize("text", ALLOWED, ids=[text[:40] for text in ALLOWED])
def test_an_identity_is_written_as_it_is_read(text: str) -> None:
    assert str(Identity.parse(text)) == text


@pytest.mark.parametrize(("text", "said"), FORBIDDEN, ids=[ascii(text[:60]) for text, _ in FORBIDDEN])
def test_what_is_no_identity_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(IdentityError, match=re.escape(said)) as caught:
        Identity.parse(text)
    assert len(str(caught.value)) < 600, "a long one does not flood the log"


PIECES = st.sampled_from(
    ["spiffe://", "td", "/", "ns", "sa", "a", ".", "..", "%2f", "?", "#", "@", ":", "A", "é", ""]
)


@given(st.lists(PIECES, max_size=14).map("".join))
def test_no_text_is_taken_for_another_identity(text: str) -> None:
    try:
        found = Identity.parse(text)
    except IdentityError:
        return
    assert str(found) == text and text.count("/") == 6 and not set(text) & set("%?#@")
    assert is_trust_domain(found.trust_domain) and not {found.namespace, found.service_account} & {
        "",
        ".",
        "..",
    }
