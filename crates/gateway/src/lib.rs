//! The front of endpoints: keys, traffic split, mirror, retry, scale from zero.
