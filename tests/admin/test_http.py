import asyncio
import json
import typing
from typing import Any

import pytest
from structlog.testing import capture_logs

from admin.http import serve
from admin.openapi import STATUS_OF, document
from admin.operations import OPERATIONS, Operation
from admin.snapshot_view import SnapshotView
from admin.view import NodeView
from base import errors
from base.errors import ConfigError, NoQuorum, NotLeader, RemoteRefused, StorageError
from tests.admin.fake_node import FakeView
from tests.admin.fake_snapshots import FakeSnapshots


def test_wrong_token_is_refused_and_logged(api: Any) -> None:
    with capture_logs() as logs:
        answer = api.call("GET", "/v1/status", token="wrong")
    assert answer.status_code == 401
    assert answer.json()["code"] == "denied"
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("admin.refused", "wrong token")
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/status", "/v1/volumes", "/metrics", "/nothing", "/v1/stop"])
def test_missing_token_is_refused_before_the_path_is_looked_at(api: Any, path: str) -> None:
    assert api.call("GET", path, token=None).status_code == 401


def test_token_of_another_scheme_is_refused(api: Any) -> None:
    answer = api.call("GET", "/v1/status", token=None, params=None)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_refused_log_line_does_not_hold_the_token(api: Any) -> None:
    with capture_logs() as logs:
        api.call("GET", "/v1/status", token="hunter2hunter2")
    assert "hunter2" not in repr(logs)


def test_volume_is_created_and_listed(api: Any) -> None:
    made = api.call("POST", "/v1/volumes", {"name": "v1", "size_bytes": "1GiB"})
    assert (made.status_code, made.json()["size_bytes"]) == (201, 1 << 30)
    assert [row["name"] for row in api.call("GET", "/v1/volumes").json()] == ["v1"]


def test_volume_is_removed(api: Any, volume: Any) -> None:
    volume("v1")
    assert api.call("DELETE", "/v1/volumes/v1").json() == {"name": "v1", "removed": True}
    assert api.call("GET", "/v1/volumes/v1").status_code == 404


def test_volume_grows(api: Any, volume: Any) -> None:
    volume("v1")
    answer = api.call("POST", "/v1/volumes/v1/grow", {"size_bytes": "2GiB"})
    assert answer.json()["size_bytes"] == 2 << 30


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"size_bytes": 1}, "name: is missing"),
        ({"name": "v"}, "size_bytes: is missing"),
        ({"name": "v", "size_bytes": 1, "colour": 2}, "colour: is not a property"),
        ({"name": 7, "size_bytes": 1}, "name: must be a text"),
        ({"name": "v", "size_bytes": True}, "size_bytes: must be a size"),
        ({"name": "v", "size_bytes": -1}, "size_bytes: must be a size"),
        ({"name": "v", "size_bytes": 1.5}, "size_bytes: must be a size"),
        ({"name": "v", "size_bytes": "many"}, "size_bytes: 'many' is not a size"),
        ({"name": "v", "size_bytes": 1, "copies": "2"}, "copies: must be a number"),
        ([1], "body: must be a JSON object"),
        ("{", "body: is not JSON"),
        ("[" * 1000, "body: is not JSON"),
        (None, "body: is not JSON"),
    ],
)
def test_wrong_body_is_refused_by_key(api: Any, body: Any, text: str) -> None:
    answer = api.call("POST", "/v1/volumes", body)
    assert answer.status_code == 400
    assert text in answer.json()["text"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "volumes: is missing"),
        ({"volumes": "v1"}, "volumes: must be a list"),
        ({"volumes": []}, "volumes: must be 1 to 256 names"),
        ({"volumes": [1]}, "volumes: must be 1 to 256 names"),
        ({"volumes": ["v1"], "name": 3}, "name: must be a text"),
        ({"volumes": ["v1"], "request": -1}, "request: must be a number from 0"),
        ({"volumes": ["v1"], "colour": 1}, "colour: is not a property"),
        ({"volumes": ["v1"], "expire_s": 1, "retain_s": True}, "retain_s: must be a number"),
        ({"volumes": ["v1@"]}, "names no view"),
    ],
)
def test_wrong_wish_for_a_snapshot_is_refused_by_key(
    api: Any, volume: Any, body: Any, text: str
) -> None:
    volume("v1")
    answer = api.call("POST", "/v1/snapshots", body)
    assert answer.status_code == 400
    assert text in answer.json()["text"]


def test_oversized_body_is_refused(api: Any) -> None:
    answer = api.call("POST", "/v1/volumes", {"name": "x" * 1024, "size_bytes": 1})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "offset: is missing"),
        ("?offset=-1", "offset: must be a number"),
        ("?offset=x", "offset: must be a number"),
        ("?offset=99999999999999999999", "offset: must be a number"),
        ("?offset=1&colour=2", "colour: is not a parameter"),
    ],
)
def test_wrong_query_is_refused_by_name(api: Any, volume: Any, query: str, text: str) -> None:
    volume("v1")
    answer = api.call("GET", f"/v1/volumes/v1/map{query}")
    assert answer.status_code == 400
    assert text in answer.json()["text"]


def test_page_of_regions_is_bounded(api: Any, volume: Any) -> None:
    volume("v1")
    assert api.call("GET", "/v1/volumes/v1/regions?count=4097").status_code == 400
    rows = api.call("GET", "/v1/volumes/v1/regions?first=2&count=9").json()
    assert [row["region"] for row in rows] == [2, 3]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoQuorum("2 of 8 answer"), 503, "no_quorum"),
        (NotLeader(3), 503, "not_leader"),
        (RemoteRefused("no_space", "1 GiB is free"), 507, "no_space"),
        (StorageError("odd"), 500, "storage"),
    ],
)
def test_error_of_the_view_becomes_json(
    api: Any, error: StorageError, status: int, code: str
) -> None:
    api.view.fails = error
    answer = api.call("GET", "/v1/volumes")
    assert answer.status_code == status
    assert answer.json() == {"code": code, "text": str(error), "definite": error.definite}


def test_bug_in_one_answer_is_logged_and_hides_its_text(api: Any) -> None:
    api.view.fails = KeyError("a secret detail")
    with capture_logs() as logs:
        answer = api.call("GET", "/v1/volumes")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert logs[0]["event"] == "admin.failed"


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v2", 404), ("PUT", "/v1/volumes", 405), ("GET", "/v1/volumes/a/b", 404),
])  # fmt: skip
def test_unknown_path_or_method_is_json_too(
    api: Any, method: str, path: str, status: int
) -> None:  # fmt: skip
    answer = api.call(method, path)
    assert answer.status_code == status
    assert answer.json()["definite"] is True


def test_ready_says_no_after_the_wait(api: Any) -> None:
    api.view.ready.clear()
    assert api.call("GET", "/v1/ready?wait_ms=1").json() == {"node": 0, "ready": False}


def test_stop_reaches_the_view(api: Any) -> None:
    assert api.call("POST", "/v1/stop").status_code == 202
    assert api.view.stopped.is_set()


def test_metrics_are_prometheus_text(api: Any) -> None:
    answer = api.call("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'eightfold_host_writes_total{node="n0"} 20' in lines
    assert 'eightfold_uptime_seconds{node="n0"} 1.5' in lines
    assert "# TYPE eightfold_exposed_seconds_total counter" in lines


def test_no_metric_is_given_twice(api: Any) -> None:
    lines = api.call("GET", "/metrics").text.splitlines()
    names = [line.split("{")[0] for line in lines if not line.startswith("#")]
    assert len(names) == len(set(names))


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema that the document uses."""
    if "$ref" in schema:
        found = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return conforms(value, found, root)
    if "anyOf" in schema:
        return any(conforms(value, each, root) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {
        "integer": int,
        "number": float,
        "string": str,
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    if type(value) is not kinds[schema["type"]]:
        return False
    if schema["type"] == "array":
        return all(conforms(each, schema["items"], root) for each in value)
    if schema["type"] == "object":
        known = schema["properties"]
        return (
            set(schema["required"]) <= set(value) <= set(known)
            and all(conforms(each, known[key], root) for key, each in value.items())
        )  # fmt: skip
    return True


BODIES = {
    "createVolume": {"name": "v2", "size_bytes": 1024},
    "growVolume": {"size_bytes": 1 << 31},
    "recover": {"regions": [2], "accept_loss": True},
    "createSnapshot": {"volumes": ["v1"], "name": "other", "request": 7},
    "setSnapshotAges": {"expire_s": 60},
    "setSnapshotRule": {"rule": "every 15m keep 8", "wanted": True},
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_answer_is_what_the_document_says(api: Any, volume: Any, operation: Operation) -> None:
    volume("v1")
    api.call("POST", "/v1/snapshots", {"volumes": ["v1"], "name": "s1"})
    root = api.call("GET", "/openapi.json", token=None).json()
    described = root["paths"][operation.path][operation.method.lower()]
    query = "&".join(
        f"{each['name']}=1" for each in described["parameters"] if each["in"] == "query"
    )
    path = operation.path.format(name="v1", snapshot="s1", other="v1") + (
        f"?{query}" if query else ""
    )
    body = BODIES.get(operation.name)
    assert (body is not None) == ("requestBody" in described)
    if body is not None:
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        assert conforms(body, schema, root)
    answer = api.call(operation.method, path, body)
    schema = described["responses"][str(answer.status_code)]["content"]["application/json"]
    assert conforms(answer.json(), schema["schema"], root), answer.text


def test_document_names_every_route_and_no_other(api: Any) -> None:
    routes = {
        (route.path, method.lower())
        for route in api.app._app.routes
        for method in route.methods - {"HEAD"}
    }
    paths = document()["paths"]
    assert routes == {(path, method) for path in paths for method in paths[path]}


def test_every_reference_of_the_document_resolves() -> None:
    text = json.dumps(document())
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == set(document()["components"]["schemas"])


def test_every_operation_of_the_view_is_served() -> None:
    served = {operation.perform.__code__.co_names for operation in OPERATIONS}
    names = {name for each in served for name in each}
    for port in (NodeView, SnapshotView):
        assert {name for name in vars(port) if not name.startswith("_")} <= names


def test_every_code_that_operations_name_is_an_error() -> None:
    codes = {each.code for each in vars(errors).values() if isinstance(each, type)
             and issubclass(each, StorageError)}  # fmt: skip
    named = {code for operation in OPERATIONS for code in operation.errors}
    assert named | set(STATUS_OF) <= codes


def test_fake_view_is_a_node_view() -> None:
    for name in vars(NodeView).keys() - {"snapshots"}:
        if not name.startswith("_"):
            assert callable(getattr(FakeView, name))
    for name in vars(SnapshotView):
        if not name.startswith("_"):
            assert callable(getattr(FakeSnapshots, name))
    assert typing.get_type_hints(NodeView.status)


async def talk(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/status HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer t\r\nConnection: close\r\n"
         b"\r\n", b"200"),
        (b"\x16\x03\x01garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", b"400"),
    ],
    ids=["a request", "garbage", "endless header"],
)  # fmt: skip
def test_server_answers_and_survives(request_bytes: bytes, status: bytes) -> None:
    async def run() -> bytes:
        server = await serve(FakeView(), host="127.0.0.1", port=0, token="t")
        try:
            return await talk(server.port, request_bytes)
        finally:
            await server.close()

    assert asyncio.run(run()).split()[1] == status


def test_port_in_use_is_a_config_error() -> None:
    async def run() -> None:
        server = await serve(FakeView(), host="127.0.0.1", port=0, token="t")
        try:
            with pytest.raises(ConfigError, match="admin_port"):
                await serve(FakeView(), host="127.0.0.1", port=server.port, token="t")
        finally:
            await server.close()

    asyncio.run(run())
