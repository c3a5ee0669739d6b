import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import ConfigError, NotFound
from base.units import GiB, KiB, MiB
from node.config import (
    ClusterConfig,
    default_cluster,
    json_schema,
    load,
    node_config,
    parse,
    parse_yaml,
    render,
)
from node.options import Options

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "cluster.yaml"
NODE = {"id": 0, "mesh_port": 1001, "nbd_port": 1002, "admin_port": 1003}
OTHER = {"id": 1, "mesh_port": 1004, "nbd_port": 1005, "admin_port": 1006}
GROUP = {"name": "raid0", "raid_level": 0, "set_size": 1}


def refusal(document: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(document, source="file")
    return str(caught.value)


def test_example_file_lists_every_option_with_its_default() -> None:
    assert EXAMPLE.read_text() == render(ClusterConfig())


def test_example_file_loads_as_the_defaults() -> None:
    assert load(EXAMPLE) == ClusterConfig()


def test_empty_document_is_the_defaults() -> None:
    assert parse(None, source="file") == ClusterConfig()


def option_models() -> list[type[Options]]:
    return sorted(Options.__subclasses__(), key=lambda each: each.__name__)


@pytest.mark.parametrize("model", option_models(), ids=lambda each: each.__name__)
def test_every_option_of_a_section_has_a_description(model: type[Options]) -> None:
    if model is not ClusterConfig:
        assert [key for key, field in model.model_fields.items() if not field.description] == []


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ClusterConfig().journal.segments_max = 3  # type: ignore[misc]


def test_sizes_are_accepted_as_text() -> None:
    config = parse({"cache": {"dirty_bytes_max": "32 MiB"}}, source="file")
    assert config.cache.dirty_bytes_max == 32 * MiB


RULES: list[tuple[Any, str]] = [
    ([], "the file must be a mapping"),
    ({"jurnal": {}}, "file: jurnal: is not an option"),
    ({"journal": {"segments": 3}}, "file: journal.segments: is not an option"),
    ({"nodes": [{**NODE, "colour": 1}]}, r"file: nodes\[0\].colour: is not an option"),
    ({"nodes": [{"id": 0}]}, r"file: nodes\[0\].mesh_port: is missing"),
    ({"nodes": []}, "file: nodes: .*at least 1"),
    ({"nodes": [{**NODE, "id": 8}]}, r"file: nodes\[0\].id: .*less than 8"),
    ({"nodes": [{**NODE, "nbd_port": 70000}]}, r"file: nodes\[0\].nbd_port: .*65535"),
    ({"nodes": [NODE, {**OTHER, "id": 0}]}, "file: nodes: id 0 is given twice"),
    (
        {"nodes": [NODE, {**OTHER, "nbd_port": 1003}]},
        r"file: nodes\[1\].nbd_port: .*already taken by nodes\[0\].admin_port",
    ),
    (
        {"nodes": [{**NODE, "peer_addresses": {5: "host:1"}}, OTHER]},
        r"file: nodes\[0\].peer_addresses.5: there is no node n5",
    ),
    (
        {"nodes": [NODE, {**OTHER, "peer_addresses": {0: "host:1"}}]},
        r"file: nodes\[1\].peer_addresses.0: n1 dials only nodes of a higher id; n0 dials it",
    ),
    (
        {"nodes": [{**NODE, "peer_addresses": {1: "host"}}, OTHER]},
        r"file: nodes\[0\].peer_addresses.1: 'host' is not HOST:PORT",
    ),
    ({"nodes": [NODE]}, "file: volumes.copies: 2 copies need as many failure domains"),
    (
        {"nodes": [{**NODE, "failure_domain": 3}, {**OTHER, "failure_domain": 3}]},
        "file: volumes.copies: .*there are 1",
    ),
    ({"cluster": {"name": "-x"}}, "file: cluster.name: .*is not a name"),
    ({"cluster": {"id": "xyz"}}, "file: cluster.id: .*pattern"),
    ({"journal": {"segments_max": True}}, "file: journal.segments_max: .*integer"),
    ({"journal": {"segments_max": "8"}}, "file: journal.segments_max: .*integer"),
    ({"journal": {"segment_bytes": "64 parsecs"}}, "file: journal.segment_bytes: .*not a size"),
    ({"journal": {"segment_bytes": "-1MiB"}}, "file: journal.segment_bytes: .*negative"),
    ({"disks": {"disk_bytes": "1PiB"}}, "file: disks.disk_bytes: .*not a size"),
    ({"disks": {"disk_bytes": "128TiB"}}, "file: disks.disk_bytes: .*less than or equal"),
    ({"disks": {"disk_bytes": "100MiB"}}, "file: disks.disk_bytes: .*not between one chunklet"),
    ({"disks": {"chunklet_bytes": "64KiB"}}, "file: disks.chunklet_bytes: .*at most 65536"),
    ({"disks": {"chunklet_bytes": 100_000}}, "file: disks.chunklet_bytes: .*multiple"),
    ({"disks": {"spare_chunklets": 512}}, "file: disks.spare_chunklets: .*leaves nothing"),
    ({"disks": {"wiring": "loose"}}, "file: disks.wiring: "),
    ({"disks": {"wiring": "split", "sleds_per_cage": 1}}, "file: disks.wiring: .*two halves"),
    ({"groups": [GROUP, GROUP]}, "file: groups: the name raid0 is given twice"),
    ({"groups": [{**GROUP, "name": "other"}]}, "file: volumes.group: there is no group raid0"),
    ({"groups": [{**GROUP, "raid_level": 5}]}, r"file: groups\[0\].raid_level: "),
    ({"groups": [{**GROUP, "raid_level": 1}]}, r"file: groups\[0\].set_size: .*between 2"),
    (
        {"groups": [{**GROUP, "raid_level": 1, "set_size": 9}]},
        r"file: groups\[0\].set_size: 9 needs as many disks; there are 8",
    ),
    ({"groups": [{**GROUP, "step_bytes": "12KiB"}]}, r"file: groups\[0\].step_bytes: .*divide"),
    (
        {"disks": {"disk_bytes": "256MiB", "spare_chunklets": 0, "sleds_per_cage": 1},
         "groups": [{**GROUP, "row_size": 5}]},
        r"file: groups\[0\].row_size: one row needs more than the 4 chunklets",
    ),
    (
        {"groups": [{**GROUP, "warning_bytes": "2GiB", "limit_bytes": "1GiB"}]},
        r"file: groups\[0\].warning_bytes: ",
    ),
    ({"volumes": {"page_bytes": 5000}}, "file: volumes.page_bytes: .*power of two"),
    ({"volumes": {"copies": 3}}, "file: volumes.copies: .*less than or equal to 2"),
    ({"volumes": {"degraded": "hope"}}, "file: volumes.degraded: "),
    (
        {"volumes": {"l2_entries": 4096, "l3_entries": 4096}},
        "file: volumes.l2_entries: a region of 274877906944 bytes is above",
    ),
    ({"cache": {"dirty_bytes_max": "1GiB"}}, "file: cache.dirty_bytes_max: .*journal can hold"),
    ({"cache": {"destage_low_percent": 50}}, "file: cache.destage_low_percent: must be below"),
    ({"mesh": {"bytes_in_flight_max": "1MiB"}}, "file: mesh.bytes_in_flight_max: .*largest piece"),
    ({"host": {"bytes_in_flight_max": "16MiB"}}, "file: host.bytes_in_flight_max: "),
    ({"host": {"request_timeout_ms": 3000}}, "file: host.request_timeout_ms: .*election"),
    ({"replication": {"grace_ms": 442}}, "file: replication.grace_ms: lease_ms x"),
    ({"replication": {"durability": "maybe"}}, "file: replication.durability: "),
    ({"membership": {"beacon_ms": 134}}, "file: membership.beacon_ms: three of them"),
    ({"membership": {"suspect_ms": 160}}, "file: membership.suspect_ms: must be above"),
    ({"membership": {"damped_s": 7200}}, "file: membership.damped_s: must not be above"),
    ({"rebuild": {"failback": "never"}}, "file: rebuild.failback: "),
    ({"consensus": {"election_ms_min": 2000}}, "file: consensus.election_ms_min: must be below"),
    ({"consensus": {"heartbeat_ms": 334}}, "file: consensus.heartbeat_ms: three of them"),
    ({"rebuild": {"joins_in_flight_max": 0}}, "file: rebuild.joins_in_flight_max: "),
    ({"admin": {"body_bytes_max": 1}}, "file: admin.body_bytes_max: "),
    ({"log": {"level": "loud"}}, "file: log.level: "),
]  # fmt: skip


@pytest.mark.parametrize(("document", "message"), RULES, ids=lambda each: str(each)[:60])
def test_broken_rule_is_refused_with_its_key(document: Any, message: str) -> None:
    assert re.search(message, refusal(document)), refusal(document)


def test_every_broken_rule_is_named_at_once() -> None:
    text = refusal({"x": 1, "log": {"level": "loud"}, "cache": {"dirty_bytes_max": "x"}})
    assert [line.split(": ")[1] for line in text.splitlines()] == [
        "cache.dirty_bytes_max", "log.level", "x",
    ]  # fmt: skip


def test_grace_just_above_the_longest_lease_is_accepted() -> None:
    assert parse({"replication": {"grace_ms": 443}}, source="file").replication.grace_ms == 443


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log: {level: info}\nlog: {level: debug}\n", "the key log is given twice"),
        ("a: &x {}\nb: *x\n", "aliases are not allowed"),
        ("log: [", "is not YAML"),
        ("log: 2020-99-99", "is not YAML"),
        ("? [a]\n: 1\n", "is not YAML"),
        ("1: 2", "Keys should be strings"),
    ],
)
def test_text_that_hides_a_mistake_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, source="file")


def test_deeply_nested_text_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse_yaml("[" * 5000, source="file")


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml")


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "c.yaml")


def test_oversized_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"#" * (MiB + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(tmp_path / "c.yaml")


@given(
    segment=st.integers(MiB, GiB),
    pages=st.sampled_from([4 * KiB, 16 * KiB, 1024 * KiB]),
    nodes=st.integers(1, 8),
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
)
@settings(deadline=None, max_examples=50)
def test_rendered_configuration_reads_back_the_same(
    segment: int, pages: int, nodes: int, name: str
) -> None:
    config = default_cluster(
        nodes,
        journal={"segment_bytes": segment, "segments_max": 66},
        volumes={"page_bytes": pages, "copies": 1, "l2_entries": 8},
        cluster={"name": name},
    )
    assert parse_yaml(render(config), source="again") == config


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda each: st.lists(each, max_size=3)
                    | st.dictionaries(st.sampled_from([*ClusterConfig.model_fields, "id", "name"]),
                                      each, max_size=4)))  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_any_document_is_a_configuration_or_a_config_error(document: Any) -> None:
    text = "file: "
    try:
        assert isinstance(parse(document, source="file"), ClusterConfig)
    except ConfigError as error:
        text = str(error)
    assert text.startswith("file: ")


@pytest.mark.parametrize("nodes", [0, 9])
def test_impossible_number_of_nodes_is_refused(nodes: int) -> None:
    with pytest.raises(ConfigError, match="is not between 1 and 8"):
        default_cluster(nodes)


def test_base_port_too_high_for_all_ports_is_refused() -> None:
    with pytest.raises(ConfigError, match="base port"):
        default_cluster(8, 65_530)


def test_single_node_gets_single_copies() -> None:
    assert default_cluster(1).volumes.copies == 1


def test_default_nbd_port_of_the_first_node_is_the_one_clients_assume() -> None:
    assert ClusterConfig().nodes[0].nbd_port == 10_809


def test_node_view_names_its_peers_and_its_directories(tmp_path: Path) -> None:
    view = node_config(default_cluster(3), tmp_path, 1)
    assert [peer.id for peer in view.peers] == [0, 2]
    assert view.journal_directory == tmp_path / "n1" / "journal"
    assert view.secret_path == tmp_path / "secret"


def test_view_of_an_unknown_node_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nodes are n0, n1"):
        node_config(default_cluster(2), tmp_path, 5)


def test_failure_domains_left_out_are_the_nodes_own() -> None:
    assert parse({"nodes": [NODE, OTHER]}, source="file").domains()[:2] == (0, 1)


def test_json_schema_knows_every_section_and_refuses_others() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(yaml.safe_load(EXAMPLE.read_text()))
    assert schema["additionalProperties"] is False


def test_addresses_of_peers_are_read_back_as_they_were_written() -> None:
    reached = {1: "10.0.0.2:4001", 2: "/run/eightfold/n2.sock"}
    config = parse(
        {"nodes": [{**NODE, "peer_addresses": reached}, OTHER,
                   {"id": 2, "mesh_port": 1007, "nbd_port": 1008, "admin_port": 1009}]},
        source="file",
    )  # fmt: skip
    assert parse_yaml(render(config), source="again") == config
