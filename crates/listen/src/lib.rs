//! Sockets: accepting connections within bounds, and draining them.
