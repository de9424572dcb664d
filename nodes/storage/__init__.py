"""Remote storage: XDR, ONC RPC and NFSv3 as bytes, the client with its timers, the reply cache and the NFS server.

Read in this order: xdr, rpc, rpc_client, nfs, nfs_calls, nfs_replies, nfs_client, drc, store, memory_store, open_files,
directory_store, server_events, nfs_procedures, nfs_server.
"""
