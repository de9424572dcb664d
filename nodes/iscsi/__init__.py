"""iSCSI, both ends (RFC 7143): a disk of a target, written over one connection.

Read in this order: iscsi, iscsi_pdus, scsi (what crosses the wire), iscsi_login; the initiator: iscsi_session,
iscsi_burst, iscsi_initiator; the target: iscsi_disk, iscsi_target_login, iscsi_target, iscsi_service.
"""
