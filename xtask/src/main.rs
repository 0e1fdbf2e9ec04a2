//! Every multi-step habit under one name.

fn main() {}
