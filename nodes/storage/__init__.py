"""What all remote storage has in common: a write and its pages, what a client writes through, and the disks of servers.

Read in this order: page_write, remote, stream_client (a client over one connection); store; memory_file, memory_store,
mirror_store; file_status, open_files, directory_store; read_only_store, write_back, walk, volume. The protocols are in
nfs/, iscsi/ and replication/.
"""
