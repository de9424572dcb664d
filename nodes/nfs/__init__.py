"""NFSv3 over ONC RPC, both ends: bytes, the client, the server and its request caches.

Read in this order. As bytes: xdr, rpc, nfs, nfs_calls, nfs_replies, nfs_links, nfs_listing, mount. The client:
nfs_mount, nfs_write, nfs_file, rpc_client, reconnection, rpc_transport, nfs_client. The server: drc, drc_ganesha,
server_events, nfs_procedures, nfs_server, nfs_service.
"""
