//! The data-plane server that runs one release.

fn main() {}
