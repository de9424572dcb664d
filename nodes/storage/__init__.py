"""Remote storage: XDR, ONC RPC and NFSv3 as bytes, the RPC client's timers, the reply cache and the NFS server.

Read in this order: xdr, rpc, rpc_client, nfs, nfs_calls, nfs_replies, drc, store, memory_store, open_files,
directory_store, server_events, nfs_procedures, nfs_server.
"""
