//! Any bytes as the stream of a connection: the first 16 as a preamble, the rest as frames, whole and byte by byte.
#![no_main]

use bytes::BytesMut;
use equeue_net::frame::{FRAME_HEADER_LEN, Frame, FrameError, take_frame};
use equeue_net::preamble::Preamble;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 4096;

fn take_all(buffer: &mut BytesMut) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    loop {
        match take_frame(buffer, LIMIT) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((preamble, _)) = bytes.split_first_chunk()
        && let Ok(found) = Preamble::decode(preamble)
    {
        assert_eq!(&found.encode(), preamble);
    }

    let mut buffer = BytesMut::from(bytes);
    let (whole, error) = take_all(&mut buffer);
    let taken: usize =
        whole.iter().map(|frame| FRAME_HEADER_LEN + frame.header.len() + frame.payload.len()).sum();
    assert_eq!(taken + buffer.len(), bytes.len());
    // A frame that begins to arrive asks for its own length, and a growing buffer at most doubles.
    assert!(buffer.capacity() <= bytes.len().max(LIMIT) * 2, "{} bytes of room", buffer.capacity());

    // However the bytes arrive, the frames and the error are the same.
    let (mut buffer, mut pieces, mut piece_error) = (BytesMut::new(), Vec::new(), None);
    for byte in bytes {
        buffer.extend_from_slice(&[*byte]);
        let (frames, error) = take_all(&mut buffer);
        pieces.extend(frames);
        if error.is_some() {
            piece_error = error;
            break;
        }
    }
    assert_eq!(piece_error, error);
    assert_eq!(pieces.len(), whole.len());
    for (one, other) in pieces.iter().zip(&whole) {
        assert_eq!((one.head, &one.header, &one.payload), (other.head, &other.header, &other.payload));
    }
});
