"""Writes that go to a peer which sums them: DRBD's replicated disk and Ceph's objects.

Read in this order: drbd_packets, drbd, drbd_service; ceph_messages, ceph, ceph_service.
"""
