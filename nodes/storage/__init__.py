"""Remote storage, both ends: protocols as bytes, what a client writes through, what serves it, and the disk below.

Read in this order. What all protocols share: page_write, remote, store. NFS as bytes: xdr, rpc, nfs, nfs_calls,
nfs_replies, nfs_links, nfs_listing, mount. Its client: nfs_mount, nfs_write, rpc_client, reconnection, rpc_transport,
nfs_client. Its server: drc, drc_ganesha, server_events, nfs_procedures, nfs_server. Disks: memory_file, memory_store,
mirror_store; file_status, open_files, directory_store; read_only_store, write_back, walk, volume.

The others write over one connection, stream_client. iSCSI: iscsi, iscsi_pdus, scsi, iscsi_login, iscsi_session,
iscsi_burst, iscsi_initiator; iscsi_disk, iscsi_target_login, iscsi_target. DRBD: drbd_packets, drbd. Ceph:
ceph_messages, ceph.
"""
