"""shell: the commands that talk to the broker of a cluster: watch, ask, and run a broker."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from admin import output
from admin.arguments import DIRECTORY, Directory, Json, Node, local_cluster
from admin.output import reported
from base.errors import AlreadyExists, InvalidRequest, RequestTimeout

if TYPE_CHECKING:
    from admin.mqtt_operator import MqttOperator, OnManagement
    from transport.mqtt_topics import Message, Topic

mqtt_app = typer.Typer(
    no_args_is_help=True, help="See and ask nodes over the MQTT broker of the cluster."
)
NEVER_SECONDS = 1e9


def _operator(directory: Path, on_message: OnManagement) -> MqttOperator:
    from admin.mqtt_access import broker_address
    from admin.mqtt_operator import MqttOperator

    cluster = local_cluster(directory, "the address of the broker")
    return MqttOperator(
        broker_address(directory, cluster.mqtt),
        cluster.cluster_id,
        cluster.token().encode(),
        rng=random.Random(random.SystemRandom().getrandbits(128)),
        on_message=on_message,
    )


@mqtt_app.command("watch")
@reported
def mqtt_watch(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="End by itself after so long.")
    ] = None,
    statistics: Annotated[bool, typer.Option(help="Show the counters of each second too.")] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show what the nodes publish: their states, and events as they happen. Ctrl-C ends it."""

    def show(topic: Topic, message: Message) -> None:
        if topic.kind == "statistics" and not statistics:
            return
        values = {"topic": str(topic), **asdict(message)}
        if as_json:
            output.emit(values)
        else:
            shown = {k: v for k, v in values.items() if k not in ("topic", "life", "node", "time")}
            output.say(f"{topic}  {json.dumps(shown, separators=(', ', ': '))}")

    async def main() -> None:
        async with _operator(directory, show) as operator:
            try:
                await operator.until(lambda: False, seconds or NEVER_SECONDS)
            except RequestTimeout:
                return

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        return


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InvalidRequest(f"{each!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


@mqtt_app.command("call")
@reported
def mqtt_call(
    node: Node,
    verb: Annotated[str, typer.Argument(help="An operation of the JSON API, as `volumes`.")],
    path: Annotated[list[str] | None, typer.Option(help="As name=v1; may be repeated.")] = None,
    query: Annotated[list[str] | None, typer.Option(help="As count=16; may be repeated.")] = None,
    body: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest wait for the answer.")] = 30.0,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Ask a node for an operation of the JSON API by a command over the broker."""
    digits = node.removeprefix("n")
    try:
        number = int(digits)
        numbers = {key: int(value) for key, value in _pairs(query or []).items()}
        given: Any = json.loads(body)
    except ValueError as error:
        raise InvalidRequest(f"node, query or body: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequest("body: must be a JSON object")

    async def main() -> Any:
        async with _operator(directory, lambda topic, message: None) as operator:
            return await operator.call(
                number, verb, path=dict(_pairs(path or [])), query=dict(numbers), body=given,
                seconds=seconds,
            )  # fmt: skip

    answer = asyncio.run(main())
    if as_json:
        output.emit(answer)
    else:
        output.say(json.dumps(answer, indent=2))


@mqtt_app.command("broker")
@reported
def mqtt_broker(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Start the cluster's own broker again after it was killed, in the background."""
    from admin.broker_process import broker_pid, start_broker

    cluster = local_cluster(directory, "the address of the broker")
    if not cluster.mqtt.get("embedded"):
        raise InvalidRequest("this cluster has no broker of its own: mqtt.embedded is false")
    if broker_pid(cluster) is not None:
        raise AlreadyExists("the broker runs already")
    pid = start_broker(cluster)
    if as_json:
        output.emit({"pid": pid})
    else:
        output.say(f"the broker runs as process {pid}")
