//! One record of a log: its length, a checksum, its bytes. Whatever does not check out is where a log ends.

/// Bytes before a record's body.
pub(super) const HEADER: usize = 8;
/// A longer body is damage: nothing that is stored is as long.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Appends a record whose body is the concatenation of `parts`.
pub(super) fn append(buffer: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut checksum = crc32fast::Hasher::new();
    for part in parts {
        checksum.update(part);
    }
    buffer.reserve(HEADER + length);
    buffer.extend_from_slice(&(length as u32).to_le_bytes());
    buffer.extend_from_slice(&checksum.finalize().to_le_bytes());
    for part in parts {
        buffer.extend_from_slice(part);
    }
}

/// What stands at the front of some bytes of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front<'a> {
    /// A record, and the bytes that it takes with its header.
    Record(&'a [u8], usize),
    /// A record that may be whole if there is more behind these bytes; it takes this many.
    Short(usize),
    /// Nothing that was ever written whole.
    Damaged,
}

pub(super) fn front(bytes: &[u8]) -> Front<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Front::Short(HEADER) };
    let Some((checksum, rest)) = rest.split_first_chunk::<4>() else { return Front::Short(HEADER) };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > MAX_BODY {
        return Front::Damaged;
    }
    let Some(body) = rest.get(..length) else { return Front::Short(HEADER + length) };
    if crc32fast::hash(body) == u32::from_le_bytes(*checksum) {
        Front::Record(body, HEADER + length)
    } else {
        Front::Damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_never_in_part() {
        let mut log = Vec::new();
        append(&mut log, &[b"ab", b"c"]);
        let length = log.len();
        append(&mut log, &[b"second"]);
        assert_eq!(front(&log), Front::Record(b"abc", length));
        assert_eq!(front(&log[length..]), Front::Record(b"second", log.len() - length));
        for cut in 0..length {
            assert!(matches!(front(&log[..cut]), Front::Short(_)), "{cut}");
        }
        for flip in 0..length {
            let mut damaged = log[..length].to_vec();
            damaged[flip] ^= 0x40;
            assert!(!matches!(front(&damaged), Front::Record(..)), "{flip}");
        }
        assert_eq!(front(&[0; 64]), Front::Damaged);
    }
}
