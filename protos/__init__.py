"""What crosses gRPC between machines: the schema, and the code that `make protos` generates from it."""
