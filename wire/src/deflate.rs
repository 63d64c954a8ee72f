//! Makes JSON shorter, and long again. What it never does: decide what is compressed.
//!
//! A compressor takes 380 KB, of which it writes 256 KB before it has seen a byte: as much as a device's agent has
//! of live data otherwise. Made for each message and freed again, it leaves holes of that size in the heap, because
//! what is allocated next and stays lies behind it; so the compressors that were needed are kept.

use std::{
    io::{self, Read as _},
    sync::{Mutex, PoisonError},
};

use flate2::{Compress, Compression, FlushCompress, Status, bufread::DeflateDecoder};

/// How many compressors wait for the next message, in a process. Few threads seal at once, even in a large one; what
/// they need beyond this is made and freed.
const KEPT: usize = 2;

static IDLE: Mutex<Vec<Compress>> = Mutex::new(Vec::new());

/// Raw deflate (RFC 1951) of `plain`; `None` when that would save less than a sixteenth of what it gives.
pub(crate) fn deflate(plain: &[u8]) -> Option<Vec<u8>> {
    let kept = idle(Vec::pop);
    let mut compressor = match kept {
        Some(mut kept) => {
            kept.reset();
            kept
        }
        None => Compress::new(Compression::new(4), false),
    };
    // More is not worth it, so that one call is enough, and what is left over is given up.
    let mut deflated = Vec::with_capacity(plain.len());
    let ended = compressor.compress_vec(plain, &mut deflated, FlushCompress::Finish);
    idle(|idle| {
        if idle.len() < KEPT {
            idle.push(compressor);
        }
    });
    let pays = deflated.len() + deflated.len() / 16 < plain.len();
    (matches!(ended, Ok(Status::StreamEnd)) && pays).then_some(deflated)
}

fn idle<T>(change: impl FnOnce(&mut Vec<Compress>) -> T) -> T {
    // A push or a pop leaves nothing half done.
    change(&mut IDLE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The reverse, up to `limit` bytes and one more, by which the caller sees that there were more.
pub(crate) fn inflate(deflated: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    // From the slice itself: the decoder in `flate2::read` has a buffer of 32 KiB of its own before it.
    DeflateDecoder::new(deflated).take(limit as u64 + 1).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn text(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| b"{\"name\":17,}"[(at * seed / 7) % 12]).collect()
    }

    #[test]
    fn a_compressor_that_is_used_again_knows_nothing_of_the_message_before() {
        let first = deflate(&text(3, 5000)).unwrap();
        for (seed, len) in [(5, 300), (1, 100_000), (11, 5000), (2, 257)] {
            let plain = text(seed, len);
            assert_eq!(inflate(&deflate(&plain).unwrap(), LIMIT).unwrap(), plain);
        }
        assert_eq!(deflate(&text(3, 5000)).unwrap(), first, "the same bytes as by a new one");
    }

    #[test]
    fn what_does_not_get_shorter_is_given_up_and_the_next_message_is_right() {
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(10_000)
        .collect();
        assert_eq!(deflate(&noise), None);
        assert_eq!(deflate(b""), None);
        let plain = text(3, 400);
        assert_eq!(inflate(&deflate(&plain).unwrap(), LIMIT).unwrap(), plain);
    }

    #[test]
    fn threads_do_not_meet_in_one_compressor() {
        std::thread::scope(|scope| {
            for thread in 1..=8 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let plain = text(thread + round, 300 + 97 * round);
                        assert_eq!(inflate(&deflate(&plain).unwrap(), LIMIT).unwrap(), plain);
                    }
                });
            }
        });
        assert!(idle(|idle| idle.len()) <= KEPT);
    }

    #[test]
    fn inflation_stops_at_the_limit() {
        let bomb = deflate(&vec![b' '; 4 * LIMIT]).unwrap();
        assert_eq!(inflate(&bomb, LIMIT).unwrap().len(), LIMIT + 1);
        assert!(inflate(&[0xff; 40], LIMIT).is_err());
    }
}
