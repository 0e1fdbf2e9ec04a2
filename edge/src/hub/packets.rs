//! MQTT 3.1.1 packets out of a stream of bytes, each within its bound: the codec is rumqttc's, which knows one bound for
//! all of them.

use bytes::BytesMut;
use rumqttc::mqttbytes::{self, v4::Packet};
use thiserror::Error;

/// CONNECT with its token, and SUBSCRIBE: nobody who is not known yet makes the hub keep more.
const MAX_SMALL: usize = 16 * 1024;
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREL: u8 = 6;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// The codec takes no notice of what it does not need: bits that must be 0, and bytes behind an acknowledgement.
fn well_formed(first: u8, length: Option<&u8>) -> bool {
    let (kind, flags) = (first >> 4, first & 0xf);
    match kind {
        PUBLISH => true,
        PUBACK => flags == 0 && length.is_none_or(|length| *length == 2),
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => flags == 2,
        PINGREQ | DISCONNECT => flags == 0 && length.is_none_or(|length| *length == 0),
        _ => flags == 0,
    }
}

/// Why a connection is closed.
#[derive(Debug, Error)]
pub(crate) enum PacketError {
    #[error("a packet is longer than {0} bytes")]
    TooLong(usize),
    #[error("the bytes are not MQTT 3.1.1")]
    Malformed(#[source] mqttbytes::Error),
    /// Of CONNECT alone.
    #[error("the client speaks another version of MQTT")]
    Version,
}

/// The next packet, once all of it is there.
pub(crate) fn next(bytes: &mut BytesMut, most: usize) -> Result<Option<Packet>, PacketError> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let kind = first >> 4;
    if !well_formed(*first, bytes.get(1)) {
        return Err(PacketError::Malformed(mqttbytes::Error::MalformedPacket));
    }
    let most = if kind == PUBLISH { most } else { most.min(MAX_SMALL) };
    match Packet::read(bytes, most) {
        Ok(packet) => Ok(Some(packet)),
        Err(mqttbytes::Error::InsufficientBytes(missing)) => {
            bytes.reserve(missing);
            Ok(None)
        }
        Err(mqttbytes::Error::PayloadSizeLimitExceeded(_)) => Err(PacketError::TooLong(most)),
        Err(mqttbytes::Error::InvalidProtocol | mqttbytes::Error::InvalidProtocolLevel(_))
            if kind == CONNECT =>
        {
            Err(PacketError::Version)
        }
        Err(error) => Err(PacketError::Malformed(error)),
    }
}

/// Writes a packet of ours; those are never too long for the codec.
pub(crate) fn write(packet: &Packet, out: &mut BytesMut) {
    // The codec refuses what is above its bound and ids of 0: there is neither.
    if let Err(error) = packet.write(out, usize::MAX) {
        tracing::error!(%error, "could not write a packet");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rumqttc::mqttbytes::{QoS, v4::Publish};

    use super::*;

    #[test]
    fn each_kind_has_its_bound_before_it_is_kept() {
        let mut publish = BytesMut::new();
        let packet = Packet::Publish(Publish::new("t", QoS::AtMostOnce, vec![7; 100_000]));
        write(&packet, &mut publish);
        let mut first = publish.split_to(10);
        assert!(matches!(next(&mut first, 50_000), Err(PacketError::TooLong(50_000))));
        let mut all = first;
        assert!(matches!(next(&mut all, 200_000), Ok(None)));
        all.unsplit(publish);
        assert_eq!(next(&mut all, 200_000).unwrap(), Some(packet));
        assert!(matches!(next(&mut all, 200_000), Ok(None)));
        // SUBSCRIBE of 100,000 bytes: only its first bytes are needed to refuse it.
        let mut subscribe = BytesMut::from(&[0x82, 0xa0, 0x8d, 0x06][..]);
        assert!(matches!(next(&mut subscribe, 200_000), Err(PacketError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_end_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next(&mut bytes, 4096) {}
        }

        #[test]
        fn no_change_of_a_packet_ends_the_reader(
            kind in 1_u8..16, flags in 0_u8..16, body in proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            let mut bytes = BytesMut::from(&[kind << 4 | flags, body.len() as u8][..]);
            bytes.extend_from_slice(&body);
            while let Ok(Some(_)) = next(&mut bytes, 4096) {}
        }
    }
}
