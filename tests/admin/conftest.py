import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from admin.http import build_app
from tests.admin.fake_node import FakeView

TOKEN = "a-token-of-the-tests"


class Api:
    """Calls the application without a network."""

    def __init__(self) -> None:
        self.view = FakeView()
        self.app = build_app(self.view, token=TOKEN, node="n0", body_bytes_max=1024)

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **more: Any
    ) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if isinstance(body, dict | list):
            body = json.dumps(body)

        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://n0") as client:
                return await client.request(method, path, content=body, headers=headers, **more)

        return asyncio.run(run())


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def volume(api: Api) -> Callable[..., Any]:
    return lambda name="v1", size=1 << 30: api.call(
        "POST", "/v1/volumes", {"name": name, "size_bytes": size}
    ).json()
