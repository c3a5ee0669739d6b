"""Membership, consensus, catalog, placement, failover."""
