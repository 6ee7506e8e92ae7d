"""Pools and what of them is free: what the IPAM driver and placement share."""
