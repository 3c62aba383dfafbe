//! The two tasks of a connection: one reads frames and hands them to their requests, one writes what is queued.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use equeue_net::frame::{FLAG_ANSWER, FRAME_BYTES_MAX, take_frame};
use equeue_net::preamble::Purpose;
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Shared;

/// Read buffer of a connection that carries answers without payload.
const READ_BUFFER: usize = 64 << 10;
/// Read buffer of a consume connection: several of the largest answers, so that few frames lie across its end and
/// must be moved.
const READ_BUFFER_CONSUME: usize = 4 << 20;
/// A read with less room than this makes new room first.
const READ_ROOM_MIN: usize = 16 << 10;
/// Pieces in one vectored write.
const PIECES_MAX: usize = 64;

/// Starts both tasks; they end with the connection.
pub(super) fn start(stream: TcpStream, shared: &Arc<Shared>, purpose: Purpose) {
    let (reading, writing) = stream.into_split();
    let buffer = if purpose == Purpose::Consume { READ_BUFFER_CONSUME } else { READ_BUFFER };
    let shared_reader = Arc::clone(shared);
    tokio::spawn(async move {
        let mut ended = shared_reader.ended.subscribe();
        let reason = tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            reason = read(reading, &shared_reader, buffer) => reason,
        };
        shared_reader.end(&reason);
    });
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut ended = shared.ended.subscribe();
        let reason = tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            reason = write(writing, &shared) => reason,
        };
        shared.end(&shared.lost(&reason.to_string()));
    });
}

/// Reads until the connection ends; tells why it did.
async fn read(mut stream: OwnedReadHalf, shared: &Shared, buffer_bytes: usize) -> crate::ClientError {
    let mut buffer = BytesMut::with_capacity(buffer_bytes);
    loop {
        if buffer.capacity() - buffer.len() < READ_ROOM_MIN {
            // Takes the memory over again where nothing holds its frames any more.
            buffer.reserve(buffer_bytes);
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return shared.lost("closed by the server"),
            Ok(_) => {}
            Err(error) => return shared.lost(&error.to_string()),
        }
        loop {
            match take_frame(&mut buffer, FRAME_BYTES_MAX) {
                Ok(Some(frame)) if frame.head.flags & FLAG_ANSWER != 0 => shared.answer(frame),
                Ok(Some(frame)) => {
                    return shared
                        .garbage(&format!("a request of kind {} came to a client", frame.head.kind));
                }
                Ok(None) => break,
                Err(error) => return shared.garbage(&error.to_string()),
            }
        }
    }
}

/// Writes until an error; tells which.
async fn write(mut stream: OwnedWriteHalf, shared: &Shared) -> std::io::Error {
    let mut pieces: VecDeque<Bytes> = VecDeque::new();
    let mut taken = Vec::new();
    loop {
        {
            let mut state = shared.lock();
            std::mem::swap(&mut taken, &mut state.outgoing);
            state.outgoing_bytes = 0;
        }
        pieces.extend(taken.drain(..).filter(|piece| !piece.is_empty()));
        if pieces.is_empty() {
            shared.write.notified().await;
            continue;
        }
        while !pieces.is_empty() {
            let written = {
                let slices: SmallVec<[IoSlice<'_>; PIECES_MAX]> =
                    pieces.iter().take(PIECES_MAX).map(|piece| IoSlice::new(piece)).collect();
                stream.write_vectored(&slices).await
            };
            match written {
                Ok(0) => return std::io::ErrorKind::WriteZero.into(),
                Ok(written) => advance(&mut pieces, written),
                Err(error) => return error,
            }
        }
    }
}

/// Drops the `written` bytes off the front.
fn advance(pieces: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(piece) = pieces.front_mut() {
        if piece.len() > written {
            piece.advance(written);
            return;
        }
        written -= piece.len();
        pieces.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_may_end_anywhere() {
        let all: Vec<Bytes> = [&b"ab"[..], b"c", b"defg"].into_iter().map(Bytes::from_static).collect();
        for written in 0..=7 {
            let mut pieces: VecDeque<Bytes> = all.clone().into();
            advance(&mut pieces, written);
            let rest: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            assert_eq!(rest, &b"abcdefg"[written..]);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }
}
