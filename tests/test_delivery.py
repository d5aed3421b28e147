"""What the page's server says of compression and of keeping, over a small server of its own."""

from __future__ import annotations

import gzip

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from steering.ui.delivery import FOR_GOOD, Delivery
from steering.ui.scope import ASSETS, asset_url

PAGE = "<html>" + "the recorded run " * 500
SCRIPT = "assets/index-DphvyggB.js"


async def page(_request: Request) -> Response:
    return HTMLResponse(PAGE)


async def anything(request: Request) -> Response:
    return Response(f"// {request.url.path}\n" * 100, 404 if "missing" in request.url.path else 200)


async def events(_request: Request) -> Response:
    return StreamingResponse(iter([f"data: {n}\n\n" for n in range(500)]), media_type="text/event-stream")


@pytest.fixture
def client() -> TestClient:
    routes = [
        Route("/", page),
        Route("/gradio_api/queue/data", events),
        Route("/{path:path}", anything, methods=["GET", "POST"]),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(Delivery)]))


def raw(client: TestClient, address: str, encoding: str) -> tuple[str | None, bytes]:
    with client.stream("GET", address, headers={"Accept-Encoding": encoding}) as answer:
        return answer.headers.get("Content-Encoding"), b"".join(answer.iter_raw())


@pytest.mark.parametrize("address", ["/", "/?idea=poetic&strength=1.2"])
def test_the_page_is_compressed_for_whoever_can_read_that(client: TestClient, address: str) -> None:
    encoding, body = raw(client, address, "gzip, br")
    assert encoding == "gzip"
    assert gzip.decompress(body).decode() == PAGE
    assert len(body) < len(PAGE) / 10
    assert raw(client, address, "identity") == (None, PAGE.encode())


def test_behind_a_proxy_with_a_path_the_page_is_still_the_page(client: TestClient) -> None:
    behind = TestClient(client.app, root_path="/booth")
    assert raw(behind, "/", "gzip")[0] == "gzip"


def test_what_streams_is_left_alone(client: TestClient) -> None:
    encoding, body = raw(client, "/gradio_api/queue/data", "gzip")
    assert encoding is None
    assert body.startswith(b"data: 0\n\n")


@pytest.mark.parametrize("address", [SCRIPT, f"booth/{SCRIPT}", asset_url("favicon.svg"), "theme.css?v=" + "0f" * 32])
def test_what_has_a_hash_in_its_address_is_kept_for_good(client: TestClient, address: str) -> None:
    assert client.get(f"/{address}").headers["Cache-Control"] == FOR_GOOD


@pytest.mark.parametrize(
    "address",
    [
        "",
        "assets/missing-DphvyggB.js",
        "assets/index.js",
        "theme.css",
        "theme.css?v=1",
        f"gradio_api/file={ASSETS.as_posix()}/favicon.svg",
        "gradio_api/file=/tmp/gradio/private.json?v=" + "0f" * 8,
        "status.json?v=" + "0f" * 8,
    ],
)
def test_everything_else_is_asked_for_again(client: TestClient, address: str) -> None:
    assert "Cache-Control" not in client.get(f"/{address}").headers


def test_an_event_is_never_kept(client: TestClient) -> None:
    assert "Cache-Control" not in client.post(f"/{SCRIPT}").headers


def test_another_file_has_another_address() -> None:
    addresses = {asset_url(name) for name in ("favicon.svg", "plotly-cartesian.min.js")}
    assert len({address.partition("?v=")[2] for address in addresses}) == 2
