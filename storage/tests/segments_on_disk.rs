//! Segments prepared and scanned through direct I/O on a real file system.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;
use std::rc::Rc;

use equeue_record::MasterEpoch;
use equeue_storage::format::{
    Chain, FLUSH_HEADER_LEN, FlushHeader, FlushKind, Salt, SegmentHeader, segment_name,
};
use equeue_storage::io::{Access, DmaIo, Io, IoFile};
use equeue_storage::segment::{
    EndKind, Ending, Fill, FirstFlush, ScanRules, find_flush, prepare_segment, read_header, remove_leftovers,
    scan_segment,
};
use equeue_storage::{LogId, Position};
use glommio::{LocalExecutorBuilder, Placement};

const SEGMENT: SegmentHeader = SegmentHeader {
    log: LogId(0),
    position: Position(0),
    bytes: 4 << 20,
    salt: Salt::from_bits(7),
    created_ms: 0,
    has_gaps: false,
};

fn flush(io: &DmaIo, chain: &Chain, body: &[u8], span: u32) -> (FlushHeader, Rc<<DmaIo as Io>::Buffer>) {
    let header = FlushHeader {
        kind: FlushKind::Data,
        epoch: MasterEpoch(1),
        position: chain.position,
        body_len: u32::try_from(body.len()).unwrap(),
        span,
        body_crc: crc32c::crc32c(body),
        chain: chain.link.unwrap(),
        snapshot: None,
        time_ms: 0,
        salt: SEGMENT.salt,
        durable_to: chain.position,
        next_salt: None,
    };
    let mut buffer = io.allocate(usize::try_from(header.written_len()).unwrap());
    let bytes = buffer.as_mut();
    bytes.fill(0);
    bytes[..FLUSH_HEADER_LEN].copy_from_slice(&header.encode());
    bytes[FLUSH_HEADER_LEN..][..body.len()].copy_from_slice(body);
    (header, Rc::new(buffer))
}

async fn prepared_written_and_read_back(io: DmaIo, dir: &Path, content: Fill) {
    std::fs::write(dir.join("prep-9.tmp"), b"left").unwrap();
    assert_eq!(remove_leftovers(&io, dir).await.unwrap(), 1);
    let file = prepare_segment(&io, dir, &SEGMENT, content).await.unwrap();
    let path = dir.join(segment_name(SEGMENT.position));
    assert_eq!(path.metadata().unwrap().len(), SEGMENT.bytes);
    assert_eq!(find_flush::<DmaIo>(&file, &SEGMENT).await.unwrap(), FirstFlush::Nothing);

    let mut chain = Chain { position: SEGMENT.first_flush(), link: Some(Chain::START) };
    // One block; the rest of the window; two whole windows.
    let spans = [4096, (1 << 20) - 8192, 2 << 20];
    for span in spans {
        let body = vec![0xab; usize::try_from(span).unwrap() - FLUSH_HEADER_LEN - 5];
        let (header, buffer) = flush(&io, &chain, &body, span);
        let written = file.write_at(Rc::clone(&buffer), header.position.0).await.unwrap();
        assert_eq!(written, buffer.as_bytes().len());
        file.sync().await.unwrap();
        chain = Chain::after(&header);
    }
    file.close().await.unwrap();

    let file = io.open(&path, Access::Read).await.unwrap();
    let header = read_header::<DmaIo>(&file).await.unwrap();
    assert_eq!(header, SEGMENT);
    assert_eq!(find_flush::<DmaIo>(&file, &header).await.unwrap(), FirstFlush::Other);
    let from = Chain { position: header.first_flush(), link: Some(Chain::START) };
    let mut seen = Vec::new();
    let end = scan_segment(&io, &file, &header, from, Ending::Open, ScanRules::default(), |flush, body| {
        assert!(body.iter().all(|byte| *byte == 0xab));
        seen.push(flush.span);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(seen, spans);
    assert_eq!((end.kind, end.chain), (EndKind::Tail { torn_bytes: 0 }, chain));
    file.close().await.unwrap();
}

fn on_disk(content: Fill) {
    // Beside the test's executable: on a disk, while /tmp may be a tmpfs, which has no direct I/O.
    let executable = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(executable.parent().unwrap()).unwrap();
    let path = dir.path().to_owned();
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(8 << 20)
        .spawn(move || async move {
            let io = DmaIo::new(&path).await.unwrap();
            prepared_written_and_read_back(io, &path, content).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn written_segments_hold_flushes() {
    on_disk(Fill::Written);
}

#[test]
fn reserved_segments_hold_flushes() {
    on_disk(Fill::Reserved);
}
