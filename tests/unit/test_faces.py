"""Which face a path is for, and the target that it carries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.faces import ENVOY, FACES, NATIVE, NGINX, Face, find


@pytest.mark.parametrize(
    ("path", "query", "face", "target"),
    [
        (b"/check", b"", NATIVE, b"/"),
        (b"/check", b"a=/check/envoy/x", NATIVE, b"/"),
        (b"/check/", b"", NATIVE, b"/"),
        (b"/check/any/path", b"q=1", NATIVE, b"/"),
        (b"/check/envoyage", b"", NATIVE, b"/"),
        (b"/check/envoy%2Fa", b"", NATIVE, b"/"),
        (b"/check/%65nvoy/a", b"", NATIVE, b"/"),
        (b"/check//envoy/a", b"", NATIVE, b"/"),
        (b"/check/Envoy/a", b"", NATIVE, b"/"),
        (b"/check/nginxed", b"", NATIVE, b"/"),
        (b"/check/nginx", b"", NGINX, b"/"),
        (b"/check/nginx", b"q=1", NGINX, b"/"),
        (b"/check/nginx/", b"", NGINX, b"/"),
        (b"/check/nginx/below", b"", NGINX, b"/"),
        (b"/check/envoy", b"", ENVOY, b"/"),
        (b"/check/envoy", b"q=1", ENVOY, b"/?q=1"),
        (b"/check/envoy/", b"", ENVOY, b"/"),
        (b"/check/envoy*", b"", ENVOY, b"*"),
        (b"/check/envoy/a%2Fb//c/../d", b"q=1&x=%20?y", ENVOY, b"/a%2Fb//c/../d?q=1&x=%20?y"),
        (b"/check/envoy/check/nginx", b"", ENVOY, b"/check/nginx"),
        (b"/check/envoy//host/x", b"", ENVOY, b"//host/x"),
    ],
)
def test_a_path_is_for_one_face(path: bytes, query: bytes, face: Face, target: bytes) -> None:
    assert find(path, query) == (face, target)


@pytest.mark.parametrize("path", [b"", b"/", b"/checks", b"/checkout", b"/Check", b"check", b"//check", b"/v1/check"])
def test_elsewhere_is_no_check(path: bytes) -> None:
    assert find(path, b"") is None


@given(st.binary(), st.binary())
def test_what_envoy_appends_is_kept_byte_for_byte(path: bytes, query: bytes) -> None:
    expected = b"/" + path + (b"?" + query if query else b"")
    assert find(b"/check/envoy/" + path, query) == (ENVOY, expected)


def test_no_two_faces_read_the_same_header() -> None:
    carriers = [name for face in FACES for name in (face.method, face.target) if name is not None]
    assert len(carriers) == len(set(carriers)) == 4
