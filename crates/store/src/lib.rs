//! The workspace's memory: metadata, content-addressed blobs, secrets, tokens.
