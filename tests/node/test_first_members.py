from __future__ import annotations

from node.config import ClusterConfig, parse
from node.daemon import first_members


def cluster(voters: str, domains: list[int]) -> ClusterConfig:
    nodes = [
        {
            "id": number, "mesh_port": 2000 + number, "nbd_port": 3000 + number,
            "admin_port": 4000 + number, "failure_domain": domain,
        }
        for number, domain in enumerate(domains)
    ]  # fmt: skip
    return parse({"nodes": nodes, "consensus": {"voters": voters}}, source="test")


def test_all_nodes_vote_unless_the_configuration_says_five() -> None:
    members = first_members(cluster("all", list(range(8))))
    assert (members.voters, members.learners) == (tuple(range(8)), ())


def test_five_voters_leave_three_learners() -> None:
    members = first_members(cluster("five", list(range(8))))
    assert (members.voters, members.learners) == ((0, 1, 2, 3, 4), (5, 6, 7))


def test_five_voters_are_spread_over_the_failure_domains() -> None:
    members = first_members(cluster("five", [0, 0, 0, 0, 1, 1, 2, 3]))
    assert members.voters == (0, 1, 4, 6, 7)
