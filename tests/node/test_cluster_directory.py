import socket
import stat
from pathlib import Path

import pytest

from admin.local import node_pid, read_cluster
from base.errors import AlreadyExists, ConfigError
from base.place import others_may_read
from node.cluster_directory import (
    adopt,
    check_free,
    choose,
    claim_directory,
    prepare,
    read_secret,
    run_claimed,
)
from node.config import ClusterConfig, default_cluster, load, render


def free_port_config(directory: Path) -> ClusterConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return prepare(directory, default_cluster(1, min(port, 65_000)))


def test_first_preparation_writes_configuration_secret_and_token(tmp_path: Path) -> None:
    prepare(tmp_path / "c", default_cluster(2))
    assert sorted(each.name for each in (tmp_path / "c").iterdir()) == [
        "cluster.yaml", "n0", "n1", "secret", "token",
    ]  # fmt: skip


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    prepare(tmp_path, default_cluster(2))
    for name in ("secret", "token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_secret_is_kept_by_a_second_preparation(tmp_path: Path) -> None:
    prepare(tmp_path, default_cluster(2))
    before = read_secret(tmp_path / "secret")
    prepare(tmp_path, choose(tmp_path))
    assert read_secret(tmp_path / "secret") == before


def test_cluster_gets_an_id_once(tmp_path: Path) -> None:
    first = prepare(tmp_path, default_cluster(2))
    assert len(first.cluster.id) == 16
    assert prepare(tmp_path, choose(tmp_path)).cluster.id == first.cluster.id


def test_written_configuration_is_complete(tmp_path: Path) -> None:
    config = prepare(tmp_path, default_cluster(2))
    assert load(tmp_path / "cluster.yaml") == config


def test_other_number_of_nodes_is_refused_later(tmp_path: Path) -> None:
    prepare(tmp_path, default_cluster(2))
    with pytest.raises(ConfigError, match="holds a cluster of 2 nodes, not 3"):
        choose(tmp_path, nodes=3)


def test_option_that_describes_the_disks_cannot_change(tmp_path: Path) -> None:
    prepare(tmp_path / "c", default_cluster(2))
    other = tmp_path / "other.yaml"
    other.write_text(render(default_cluster(2, disks={"disk_bytes": "64GiB"})))
    with pytest.raises(ConfigError, match="disks: cannot change"):
        choose(tmp_path / "c", config_file=other)


def test_option_that_is_not_on_the_disks_can_change(tmp_path: Path) -> None:
    before = prepare(tmp_path / "c", default_cluster(2))
    other = tmp_path / "other.yaml"
    other.write_text(render(default_cluster(2, log={"level": "debug"})))
    after = choose(tmp_path / "c", config_file=other)
    assert (after.log.level, after.cluster.id) == ("debug", before.cluster.id)


def test_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("x" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        read_secret(path)


def test_short_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    with pytest.raises(ConfigError, match="at least 16"):
        read_secret(path)


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    with pytest.raises(ConfigError, match="c"):
        claim_directory(tmp_path / "c")
    with pytest.raises(ConfigError, match="c"):
        prepare(tmp_path / "c", default_cluster(2))


def test_second_claim_of_a_directory_is_refused(tmp_path: Path) -> None:
    with claim_directory(tmp_path), pytest.raises(AlreadyExists, match="already runs in"):
        claim_directory(tmp_path)


def test_directory_can_be_claimed_again_after_release(tmp_path: Path) -> None:
    claim_directory(tmp_path).close()
    claim_directory(tmp_path).close()


def test_port_in_use_is_refused_by_key(tmp_path: Path) -> None:
    config = free_port_config(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.nodes[0].nbd_port))
        taken.listen()
        with pytest.raises(ConfigError, match=r"node n0: nbd_port: 127\.0\.0\.1:\d+: Address"):
            check_free(config, tmp_path)


def test_running_node_is_seen_before_another_start(tmp_path: Path) -> None:
    config = free_port_config(tmp_path)
    refused = []

    def run(directory: Path, node: int) -> int:
        with pytest.raises(AlreadyExists, match="node n0 already runs"):
            check_free(config, directory)
        refused.append(node_pid(read_cluster(directory).node(node)) is not None)
        return 7

    assert run_claimed(tmp_path, 0, run) == 7
    assert refused == [True]


def test_pid_file_goes_with_the_node(tmp_path: Path) -> None:
    free_port_config(tmp_path)
    run_claimed(tmp_path, 0, lambda directory, node: 0)
    assert node_pid(read_cluster(tmp_path).node(0)) is None


def test_configuration_that_is_handed_out_is_adopted_without_secrets(tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(render(default_cluster(2)))
    adopt(tmp_path / "c", given)
    assert [each.name for each in (tmp_path / "c").iterdir()] == ["cluster.yaml"]
    assert load(tmp_path / "c" / "cluster.yaml") == default_cluster(2)


def test_adopted_configuration_may_not_describe_other_disks(tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(render(default_cluster(2)))
    adopt(tmp_path / "c", given)
    given.write_text(render(default_cluster(2, disks={"cages": 2})))
    with pytest.raises(ConfigError, match="disks: cannot change"):
        adopt(tmp_path / "c", given)


def test_only_engines_may_hand_out_secrets_that_others_can_read(tmp_path: Path) -> None:
    assert others_may_read(tmp_path / "secret", 0o644)
    assert not others_may_read(tmp_path / "secret", 0o600)
    assert not others_may_read(Path("/run/secrets/secret"), 0o444)
