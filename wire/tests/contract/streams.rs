//! Frames of a stream.

use fleet_wire::{
    envelope::{MAX_MESSAGE, OVERHEAD},
    stream::{Frame, FrameError, MAX_CHUNK},
};
use proptest::prelude::*;

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<u64>(), prop::collection::vec(any::<u8>(), 0..2000))
            .prop_map(|(offset, bytes)| Frame::Data { offset, bytes }),
        (any::<u64>(), any::<u64>()).prop_map(|(received, limit)| Frame::Credit { received, limit }),
        Just(Frame::Ping),
        Just(Frame::Pong),
        (any::<u64>(), any::<Option<String>>()).prop_map(|(offset, error)| Frame::End { offset, error }),
        Just(Frame::Cancel),
    ]
}

proptest! {
    #[test]
    fn a_frame_is_read_as_it_was_written(frame in frame()) {
        let bytes = frame.encode();
        prop_assert!(!bytes.is_empty());
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
    }

    #[test]
    fn a_frame_cut_short_is_none(frame in frame(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.encode();
        prop_assert_eq!(Frame::decode(&bytes[..cut.index(bytes.len())]), Err(FrameError::Format));
    }

    #[test]
    fn what_a_newer_version_appends_is_ignored(frame in frame(), more in any::<Vec<u8>>()) {
        let bytes = [frame.encode(), more].concat();
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
    }
}

#[test]
fn a_chunk_has_a_limit() {
    let data = |size| Frame::Data { offset: u64::MAX, bytes: vec![7; size] };
    let largest = data(MAX_CHUNK).encode();
    assert_eq!(Frame::decode(&largest), Ok(data(MAX_CHUNK)));
    assert!(largest.len() + OVERHEAD < MAX_MESSAGE);
    assert_eq!(Frame::decode(&data(MAX_CHUNK + 1).encode()), Err(FrameError::TooLarge(MAX_CHUNK + 1)));
}

#[test]
fn a_length_beyond_the_frame_allocates_nothing() {
    // Data, offset 0, and a length of 2^63 - 1 with nothing behind it.
    let claim = [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(Frame::decode(&claim), Err(FrameError::Format));
}

/// Frames are not self-describing: their bytes are the contract.
#[test]
fn the_bytes_of_frames_never_change() {
    for (frame, bytes) in [
        (Frame::Data { offset: 300, bytes: b"hi".to_vec() }, &[0, 0xac, 2, 2, b'h', b'i'][..]),
        (Frame::Credit { received: 1, limit: 2 }, &[1, 1, 2]),
        (Frame::Ping, &[2]),
        (Frame::Pong, &[3]),
        (Frame::End { offset: 5, error: None }, &[4, 5, 0]),
        (Frame::End { offset: 5, error: Some("x".into()) }, &[4, 5, 1, 1, b'x']),
        (Frame::Cancel, &[5]),
    ] {
        assert_eq!(frame.encode(), bytes, "{frame:?}");
    }
    assert_eq!(Frame::decode(&[6]), Err(FrameError::Format), "a frame of a newer version");
    assert_eq!(Frame::decode(&[]), Err(FrameError::Format));
}
